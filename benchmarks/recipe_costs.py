"""What the trainings of the recipes cost on GPUs: hours and memory, computed from operations.

    python benchmarks/recipe_costs.py

The operations of one update (forward and backward, one multiplication and addition is two) are
counted while the model runs on the meta device; memory is predicted as vt-memory does. Hours assume
that a third of a V100's 125 TFLOP/s in fp16 is reached (UTILIZATION), that reading videos keeps up,
and nothing for communication, validation and saving. Beside them stand the hours at the rates that
updates were measured to reach, per kind of GPU (results/gpu_*.json): those that we have are lower.
The number of GPUs of the fine-tunings is our assumption: the paper does not say it. Writes
results/recipe_costs.json.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import measuring
import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY
from torch.utils.flop_counter import FlopCounterMode

import vt_fairseq.plugin  # noqa: F401
from vt_fairseq.models.architectures import build_model
from vt_fairseq.models.video_translate import VideoTranslateModel
from vt_fairseq.training.memory.activations import training_memory
from vt_fairseq.training.memory.prediction import (
    FP32,
    GIB,
    VIDEO_ID,
    VOCABULARY,
    BatchShape,
    Setup,
    batch_loss,
    memory_of_model,
)

PEAK = 125e12  # operations per second of a V100's tensor cores in fp16
UTILIZATION = 1 / 3
ARCHITECTURE = "video_translate_t5_large"
CLIPS = 8  # a GPU and update, as in the paper
# In results/gpu_*.json: trainings of that model and batch in fp16, by the engine and by fairseq's
# trainer, and the largest rate of a matrix product.
MEASURED = {True: "fp16, ZeRO-2", False: "fp16, fairseq's trainer"}
CEILING = "matmul_fp16_tflops"


@dataclass(frozen=True)
class Training:
    """One training of a recipe.

    Attributes:
        name: folder of the recipe, and which of its trainings.
        gpus, updates: of the whole training.
        source, target: tokens; the video's four are in ``source``.
        heads: outputs of the linear heads; none: the decoder is trained.
        candidates: sources of one clip.
        clips: of an update and GPU.
        video_only: the heads are on the video network's output, and SGD with momentum trains both,
            by fairseq's trainer.
    """

    name: str
    gpus: int
    updates: int
    source: int
    target: int = 0
    heads: tuple[int, ...] = ()
    candidates: int = 1
    clips: int = CLIPS
    video_only: bool = False


# Lengths: the limits of the captions' targets; source: 4 of video, prompt, question, the noisy text
# or the subtitles of a moment, rounded up.
TRAININGS = (
    Training("pretrain_howto100m", gpus=128, updates=250_000, source=32, target=21),
    Training(  # 27 epochs of 23,191 clips
        *("epic_kitchens baseline", 8, 27 * 484, 12),
        heads=(125, 352),
        clips=6,
        video_only=True,
    ),
    Training("epic_kitchens generative", gpus=8, updates=262_144, source=24, target=13),
    Training("epic_kitchens multitask", gpus=8, updates=262_144, source=32, target=21),
    Training("epic_kitchens discriminative", gpus=8, updates=40_000, source=12, heads=(125, 352)),
    Training("tvqa generative", gpus=8, updates=262_144, source=128, target=21),
    Training("tvqa discriminative", gpus=8, updates=40_000, source=144, heads=(1,), candidates=5),
    Training("tvc", gpus=8, updates=262_144, source=128, target=41),
    Training("youcook2", gpus=8, updates=262_144, source=48, target=41),
    Training("msrvtt captions", gpus=8, updates=262_144, source=48, target=41),
    Training("msrvtt retrieval", gpus=8, updates=262_144, source=48, target=41),
)


def model_of(training: Training) -> VideoTranslateModel:
    """The paper's model in fp16, without contents."""
    sizes = {f"head{k}": size for k, size in enumerate(training.heads)}
    with torch.device("meta"):
        config = MODEL_DATACLASS_REGISTRY[ARCHITECTURE]()
        config.heads_on = "video" if training.video_only else config.heads_on
        model = build_model(config, VOCABULARY, VIDEO_ID, sizes)
    return model.half().train()


def loss_of(model: VideoTranslateModel, training: Training) -> Callable[[], torch.Tensor]:
    """Returns a function that makes a batch and computes a scalar to differentiate."""
    if not training.heads:
        shape = BatchShape(rows=training.clips, source=training.source, target=training.target)
        return lambda: batch_loss(model, shape)

    def heads_loss() -> torch.Tensor:
        rows = training.clips * training.candidates
        with torch.device("meta"):
            video = torch.zeros(training.clips, 32, 112, 112, 3, dtype=torch.uint8)
            source = torch.full((rows, training.source), VIDEO_ID - 1)
            clips = torch.arange(training.clips).repeat_interleave(training.candidates)
        logits = model(source, video=video, clip_of_row=clips)
        return sum(x.float().logsumexp(dim=-1).sum() for x in logits.values())

    return heads_loss


def cost(training: Training) -> dict:
    """Operations, hours and memory of one training."""
    model = model_of(training)
    loss = loss_of(model, training)
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    model.zero_grad()
    needed = training_memory(model.parameters(), model.buffers(), loss)
    operations = training.updates * counter.get_total_flops()
    setup = Setup(zero_stage=0 if training.video_only else 1, gpus=training.gpus)
    memory = memory_of_model(model, setup, needed).total
    if training.video_only:  # one moment, where Adam has two
        memory -= FP32 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    hours = operations / (PEAK * UTILIZATION) / 3600
    return {
        "gpus": training.gpus,
        "updates": training.updates,
        "tflop_per_update": round(counter.get_total_flops() / 1e12, 2),
        "hours": round(hours, 1),
        "gpu_hours": round(hours * training.gpus),
        "gib_per_gpu": round(memory / GIB, 1),
    }


def measured_rates(tflop_per_update: float) -> dict[str, dict[str, float]]:
    """TFLOP/s that an update of ``tflop_per_update`` has reached, by the kind of GPU."""
    rates = {}
    for path in sorted(measuring.RESULTS.glob("gpu_*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        latest = result.get("after tuning", {}).get("measured", {})
        steps = {way: latest[way]["clock"] for way in MEASURED.values() if way in latest}
        if steps:
            ceiling = latest["video network"]["ceilings"][CEILING]
            card = result["machine"]["card"]
            rates[card] = {"matrix product": ceiling}
            rates[card] |= {way: round(tflop_per_update / ms * 1e3, 1) for way, ms in steps.items()}
    return rates


if __name__ == "__main__":
    costs = {training.name: cost(training) for training in TRAININGS}
    rates = measured_rates(costs["pretrain_howto100m"]["tflop_per_update"])
    for training in TRAININGS:
        found = costs[training.name]
        for card, rate in rates.items():
            tflop = found["updates"] * found["tflop_per_update"]
            hours = tflop / rate[MEASURED[not training.video_only]] / 3600
            found[f"hours_at_measured_rate_of_{card}"] = round(hours, 1)
    assumed = {"V100, assumed": round(PEAK * UTILIZATION / 1e12, 1)}
    reached = {f"{card}, {what}": x for card, rate in rates.items() for what, x in rate.items()}
    costs["TFLOP/s"] = assumed | reached
    measuring.write_result("recipe_costs", measuring.machine("ve-fairseq"), costs)
