"""Predicts the memory of a training run, per GPU and term by term.

States (parameters, gradients, optimizer) follow from formulae (Rajbhandari et al. 2020, arXiv
1910.02054, and the sources of DeepSpeed 0.19 and fairseq 0.12); activations are counted by running
the model on the meta device. All amounts are bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from vt_fairseq.data.tokenizer import PAD
from vt_fairseq.errors import UserError
from vt_fairseq.models.architectures import VideoTranslateConfig, build_model
from vt_fairseq.models.r2plus1d import VIDEO_STAGES
from vt_fairseq.models.video_backbones import network_on_meta
from vt_fairseq.models.video_translate import VideoTranslateModel
from vt_fairseq.training.memory.activations import TrainingMemory, training_memory
from vt_fairseq.training.memory.setup import BatchShape as BatchShape
from vt_fairseq.training.memory.setup import Setup as Setup
from vt_fairseq.training.parts import SHARES

GIB = 2**30
FP32 = 4  # bytes
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# An assumption, not a measurement: CUDA context, NCCL, cuDNN's work space, fragmentation.
CONTEXT = 2 * GIB
# What nvidia-smi shows as the whole memory of a V100 sold with 16 and with 32 GB.
V100_MEMORY = {"16 GB": 16_130 * 2**20, "32 GB": 32_480 * 2**20}
# T5's table; its rows and the place of [VIDEO] as vt_fairseq.data.tokenizer has them.
VOCABULARY, VIDEO_ID = 32_128, 32_103


@dataclass(frozen=True)
class States:
    """Bytes that stay from step to step; all but ``cpu`` are on the GPU.

    Attributes:
        waiting: of the gradients, what is there when a backward pass begins.
        step: copies of the gradients that are made in the optimizer's step, when activations are
            gone.
        cpu: of one GPU's process.
    """

    parameters: int
    gradients: int
    waiting: int
    optimizer: int
    buckets: int
    step: int
    cpu: int


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes on one GPU."""

    states: States
    training: TrainingMemory
    context: int = CONTEXT

    @property
    def backward(self) -> int:
        """Gradients, activations and work space at the peak of the backward pass."""
        if self.states.waiting:
            return self.states.waiting + self.training.peak
        return self.training.with_gradients

    @property
    def step(self) -> int:
        """Gradients and their copies in the optimizer's step."""
        return self.states.gradients + self.states.step

    @property
    def total(self) -> int:
        """The peak: of the backward pass or, where that needs more, of the optimizer's step."""
        states = self.states
        kept = states.parameters + states.optimizer + states.buckets
        return kept + max(self.backward, self.step) + self.context

    def fits_v100(self) -> dict[str, bool]:
        """Whether it fits the V100s, by their size."""
        return {card: self.total <= memory for card, memory in V100_MEMORY.items()}


@dataclass(frozen=True)
class Run:
    """Everything that decides how much memory is needed."""

    config: VideoTranslateConfig
    batch: BatchShape
    setup: Setup


def states(parameters: int, trained: int, setup: Setup) -> States:
    """States of a model with so many parameters, of which ``trained`` are not frozen.

    fairseq's own trainer in half precision keeps an fp32 copy of the parameters; with more GPUs it
    flattens the gradients into another buffer to reduce them. An update of one micro batch begins
    without gradients. ZeRO keeps an fp32 copy of the parameters whatever the precision, and room
    for all gradients from the first on. A stage divides by the number of GPUs: 1 the optimizer's
    states, 2 the gradients too, 3 the parameters too.
    """
    check(setup)
    width, stage = DTYPES[setup.precision].itemsize, setup.zero_stage
    at_once = setup.stepped_at_once or SHARES[stage]
    moments = 2 * FP32 * trained
    if stage == 0:
        copies = 0 if setup.precision == "fp32" else FP32 * trained
        gradients = width * trained
        return States(
            parameters=width * parameters,
            gradients=gradients,
            waiting=gradients if setup.update_freq > 1 or setup.gpus > 1 else 0,
            optimizer=copies + moments,
            buckets=width * trained if setup.gpus > 1 else 0,
            step=math.ceil(at_once * copies),
            cpu=0,
        )
    share = math.ceil(trained / setup.gpus)
    optimizer, fp32_gradients = 3 * FP32 * share, FP32 * share
    # Before they become fp32 gradients, those of half precision are flattened.
    flat = width * share if width < FP32 else 0
    gathered = min(parameters, setup.stage3_max_live_parameters) if stage == 3 else 0
    gradients = width * (share if stage >= 2 else trained)
    return States(
        parameters=width * (math.ceil(parameters / setup.gpus) if stage == 3 else parameters),
        gradients=gradients,
        waiting=gradients,
        optimizer=0 if setup.offload_optimizer else optimizer,
        buckets=width * (setup.reduce_bucket_size + gathered),
        step=0 if setup.offload_optimizer else math.ceil(at_once * (flat + fp32_gradients)),
        cpu=optimizer + fp32_gradients if setup.offload_optimizer else 0,
    )


def check(setup: Setup) -> None:
    """Raise UserError for a combination that cannot be run."""
    fits = setup.precision in DTYPES and setup.zero_stage in range(4)
    if not fits or min(setup.gpus, setup.update_freq) < 1:
        raise UserError(
            f"expected a precision of {sorted(DTYPES)}, a ZeRO stage from 0 to 3 and "
            f"at least one GPU and one micro batch, found {setup}"
        )
    if setup.offload_optimizer and setup.zero_stage == 0:
        raise UserError("--offload-optimizer cpu needs ZeRO: add --zero-stage 2")


def build(run: Run, device: str = "meta") -> VideoTranslateModel:
    """The run's model in training mode and in its precision."""
    with torch.device(device):
        model = build_model(run.config, VOCABULARY, VIDEO_ID)
    return model.to(DTYPES[run.setup.precision]).train()


def count_training(model: VideoTranslateModel, batch: BatchShape) -> TrainingMemory:
    """Activations and work space of one batch, counted on the model's device.

    Raises UserError where the source is too short for the video's tokens.
    """
    tokens = model.encoder.video.num_tokens(batch.frames)
    if min(batch.rows, batch.frames, batch.size, batch.target) < 1 or batch.source < tokens:
        raise UserError(
            f"expected positive sizes and at least {tokens} source tokens, for the video's, "
            f"found {batch}"
        )

    return training_memory(model.parameters(), model.buffers(), lambda: batch_loss(model, batch))


def batch_loss(model: VideoTranslateModel, batch: BatchShape) -> torch.Tensor:
    """The training loss of a made-up batch of this shape, on the model's device."""
    device = model.decoder.embed_tokens.weight.device
    with torch.device(device):
        side = (batch.size, batch.size)
        video = torch.zeros(batch.rows, batch.frames, *side, 3, dtype=torch.uint8)
        target = torch.full((batch.rows, batch.target), VIDEO_ID)
        source = torch.full((batch.rows, batch.source), VIDEO_ID - 1)
        source[:, : model.encoder.video.num_tokens(batch.frames)] = VIDEO_ID
    logits, _ = model(source, target, video=video)
    # As vt_fairseq.criterions.cross_entropy has it.
    return F.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=PAD, reduction="sum"
    )


def predict(run: Run) -> MemoryPrediction:
    """Memory of one GPU of the run; raises UserError where the options exclude each other."""
    check(run.setup)
    model = build(run)
    return memory_of_model(model, run.setup, count_training(model, run.batch))


def memory_of_model(
    model: torch.nn.Module, setup: Setup, training: TrainingMemory
) -> MemoryPrediction:
    """Memory of one GPU that trains ``model``, whose batches need ``training``."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    kept = states(sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained), setup)
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    return MemoryPrediction(replace(kept, parameters=kept.parameters + buffers), training)


def suggestions(run: Run) -> Iterator[tuple[str, Run]]:
    """What one can do, as options and the run with them, from the cheapest in time on."""
    frugal, both = run, "--checkpoint-activations"
    if hasattr(network_on_meta(run.config.video_network), "checkpoint_video_stages"):
        frugal = replace(run, config=replace(run.config, checkpoint_video_stages=VIDEO_STAGES))
        yield f"--checkpoint-video-stages {VIDEO_STAGES}", frugal
        both = f"--checkpoint-video-stages {VIDEO_STAGES} {both}"
    frugal = replace(frugal, config=replace(frugal.config, checkpoint_activations=True))
    yield both, frugal
    setup = run.setup
    stage, gpus = max(setup.zero_stage, 2), max(setup.gpus, 8)
    spread = replace(setup, zero_stage=stage, gpus=gpus)
    yield f"{both} --zero-stage {stage} --gpus {gpus}", replace(frugal, setup=spread)
    offloaded = replace(setup, zero_stage=stage, offload_optimizer=True)
    options = f"{both} --zero-stage {stage} --offload-optimizer cpu"
    yield options, replace(frugal, setup=offloaded)
    rows = run.batch.rows // 2
    while rows:
        smaller = replace(run.batch, rows=rows)
        yield f"{options} --batch-size {rows}", replace(frugal, setup=offloaded, batch=smaller)
        rows //= 2


def first_sufficient(run: Run, card: str) -> tuple[str, MemoryPrediction] | None:
    """The first of ``suggestions`` with which the run fits the card, or None."""
    for options, changed in suggestions(run):
        prediction = predict(changed)
        if prediction.fits_v100()[card]:
            return options, prediction
    return None
