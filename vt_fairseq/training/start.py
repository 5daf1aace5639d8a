"""What a training says of itself at its start, in a few lines, and the mistakes that show by then.

Mistakes that would cost a day: no GPU, targets that are cut or all equal, a new video network that
learns at a tenth of the rate, a model that does not fit into memory.
"""

import logging
import math
import os
from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any

import torch
from torch import nn

from vt_fairseq.data.dataset import VideoTextDataset
from vt_fairseq.data.text_lengths import TextLengths
from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.models.architectures import VideoTranslateArchitecture, build_model, saved_config
from vt_fairseq.models.r2plus1d import R2Plus1D
from vt_fairseq.models.video_translate import VideoTranslateModel
from vt_fairseq.training.lr_scale import lr_scale
from vt_fairseq.training.memory.prediction import (
    GIB,
    BatchShape,
    MemoryPrediction,
    Setup,
    count_training,
    memory_of_model,
)
from vt_fairseq.training.zero.config import zero_stage

logger = logging.getLogger(__name__)

LOOKED_AT = 1000  # rows whose targets are looked at, evenly spread
# A run of fewer updates is a trial: it shows its memory sooner than it is predicted.
PREDICTED_FROM = 50
PROMPT_TOKENS = 16  # of a source beside the video's and the text's: [CLS], [SEP], prompt, </s>
# An assumption, as CONTEXT is one: Python, torch and DeepSpeed in a process without a GPU.
CPU_PROCESS = 3 * GIB // 4
REPORTED = ("video_lr_scale", "head_lr_scale", "heads")  # options without which curves mislead
VIDEO_NETWORK = "encoder.video.network."  # what the names of its parameters start with


def describe(trainer: Any, new_video_network: bool) -> None:
    """Log all of it, on the process that logs.

    Args:
        trainer: ours, with its data and its checkpoint loaded.
        new_video_network: whether the video network's weights are random.
    """
    if not trainer.is_data_parallel_master:
        return
    cfg, dataset = trainer.cfg, trainer.epoch_iterator.dataset
    say_device(trainer)
    logger.info("%s", of_parameters(trainer))
    # As fairseq prints its configuration; vt-report reads them.
    logger.info("%s", {name: cfg.model[name] for name in REPORTED if name in cfg.model})
    logger.info("%s", of_data(trainer, dataset))
    if isinstance(dataset, VideoTextDataset):  # a task of one's own may have another
        if planned_updates(trainer) >= PREDICTED_FROM:
            say_memory(trainer, dataset)
        for warning in target_warnings(dataset, trainer.task.tokenizer):
            logger.warning("%s", warning)
    if new_video_network:
        warn_of_slow_network(trainer.get_model(), str(cfg.model.get("video_network")))


# --- device and parameters -----------------------------------------------------------------------


def precision(cfg: Any) -> str:
    """fp32, fp16 or bf16."""
    return "fp16" if cfg.common.fp16 else "bf16" if cfg.common.bf16 else "fp32"


def say_device(trainer: Any) -> None:
    """Where it runs; a warning where that is a CPU that nobody asked for."""
    cfg, processes = trainer.cfg, trainer.data_parallel_world_size
    if trainer.device.type != "cpu":
        name = torch.cuda.get_device_name(trainer.device)
        logger.info("trains on %d x %s in %s", processes, name, precision(cfg))
        return
    several = f"{processes} processes of " if processes > 1 else ""
    threads = torch.get_num_threads()
    where = f"{several}{threads} {'thread' if threads == 1 else 'threads'} in {precision(cfg)}"
    if cfg.common.cpu:
        logger.info("trains on the CPU, %s", where)
        return
    reason = (
        "see nvidia-smi and CUDA_VISIBLE_DEVICES"
        if torch.version.cuda
        else f"torch {torch.__version__} is a build for CPUs: install one for CUDA"
    )
    logger.warning(
        "no GPU was found (%s): trains on the CPU, %s. Small sizes are quick there: "
        "--arch video_translate_tiny --num-frames 8 --frame-size 56; --cpu says that it is meant",
        *(reason, where),
    )


def of_parameters(trainer: Any) -> str:
    """How many parameters there are and are trained, and by what."""
    # ZeRO-3 has taken the parameters away where it resumes.
    sizes = [
        (getattr(p, "ds_numel", p.numel()), p.requires_grad)
        for p in trainer.get_model().parameters()
    ]
    stage = zero_stage(trainer.cfg)
    return (
        f"{sum(n for n, trained in sizes if trained):,} of {sum(n for n, _ in sizes):,} parameters "
        f"are trained, by {f'DeepSpeed, ZeRO-{stage}' if stage else 'the trainer of fairseq'}"
    )


def has_new_video_network(state: dict[str, Any]) -> bool:
    """Whether the video network of a checkpoint has random weights: those that ``vt-init`` drew."""
    drawn = (state.get("pretrained") or {}).get("new") or {}
    return any(n.startswith(VIDEO_NETWORK) and n.endswith(".weight") for n in drawn)


def warn_of_slow_network(model: nn.Module, name: str) -> None:
    """Say so where new weights of the video network hardly move."""
    parameters = [p for n, p in model.named_parameters() if n.startswith(VIDEO_NETWORK)]
    scales = {lr_scale(p) for p in parameters if p.requires_grad}
    cure = "start from pretrained weights (vt-init, --finetune-from-model)"
    if parameters and not scales:
        logger.warning("the video network %s has random weights and is frozen: %s", name, cure)
    elif scales and max(scales) < 1:
        logger.warning(
            "the video network %s starts from random weights and learns at %g times --lr, which is "
            "for pretrained ones: add --video-lr-scale 1, or %s",
            *(name, max(scales), cure),
        )


# --- data ----------------------------------------------------------------------------------------


def updates_per_epoch(trainer: Any) -> int:
    """Updates of the epoch that is trained first."""
    frequencies = trainer.cfg.optimization.update_freq
    iterator = trainer.epoch_iterator
    frequency = frequencies[min(iterator.next_epoch_idx, len(frequencies)) - 1]
    return math.ceil(len(iterator) / frequency)


def planned_updates(trainer: Any) -> float:
    """After how many updates the options end the training; infinity where none does."""
    options = trainer.cfg.optimization
    of_epochs = (options.max_epoch or math.inf) * updates_per_epoch(trainer)
    return min(options.max_update or math.inf, of_epochs)


def of_data(trainer: Any, dataset: Sized) -> str:
    """Clips, batches and updates."""
    cfg, done, planned = trainer.cfg, trainer.get_num_updates(), planned_updates(trainer)
    clips = f"{len(dataset):,} clips of {cfg.dataset.train_subset}"
    if rows := cfg.dataset.batch_size:
        together = trainer.data_parallel_world_size * cfg.optimization.update_freq[0]
        clips += f" in batches of {rows}" + (f" x {together}" if together > 1 else "")
    end = "no end" if planned == math.inf else f"ends at {planned:,}"
    begin = f", goes on from {done:,}" if done else ""
    return f"{clips}, {updates_per_epoch(trainer):,} updates an epoch{begin}, {end}"


def target_warnings(dataset: VideoTextDataset, tokenizer: Tokenizer) -> Iterator[str]:
    """What of the targets is cut, and which are all equal."""
    step = max(len(dataset.rows) // LOOKED_AT, 1)
    numbers = islice(range(0, len(dataset.rows), step), LOOKED_AT)
    rows = [dataset.rows[number] for number in numbers]
    for name, classes in dataset.heads.names().items() if dataset.heads is not None else ():
        if len(classes) == 1:
            yield f"the head {name} has the class {classes[0]!r:.80} alone: it learns nothing"
    for prompt in dataset.prompts if dataset.heads is None else ():
        texts = [text for row in rows for text in prompt.references(row)]
        lengths, limit = TextLengths.of(tokenizer, texts), prompt.max_target_tokens
        if lengths is None:
            continue
        if cut := lengths.above(limit):
            yield (
                f"{cut:,} of the {len(texts):,} targets of {prompt.name} that were looked at are "
                f"longer than {limit} tokens and are cut there: --max-target-tokens "
                f"{prompt.name}={lengths.longest} cuts none of them"
            )
        if len(texts) > 1 and len(set(texts)) == 1:
            yield (
                f"the {len(texts):,} targets of {prompt.name} that were looked at are all "
                f"{texts[0]!r:.80}: nothing can be learned from them"
            )


# --- memory --------------------------------------------------------------------------------------


def say_memory(trainer: Any, dataset: VideoTextDataset) -> None:
    """The memory to expect; a warning where there is less."""
    prediction = predicted_memory(trainer, dataset)
    if prediction is None:
        return
    on_cpu = trainer.device.type == "cpu"
    if on_cpu:
        needed = prediction.total - prediction.context + CPU_PROCESS
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        there = memory // trainer.data_parallel_world_size
    else:
        needed = prediction.total
        there = torch.cuda.get_device_properties(trainer.device).total_memory
    logger.log(
        logging.WARNING if needed > there else logging.INFO,
        "expected memory: %.1f GiB of %.1f on each %s%s",
        *(needed / GIB, there / GIB, "process" if on_cpu else "GPU"),
        ": take a smaller --batch-size or --frame-size, see vt-memory" if needed > there else "",
    )


def predicted_memory(trainer: Any, dataset: VideoTextDataset) -> MemoryPrediction | None:
    """Of one process; None for batches by tokens, heads, and a video network of one's own.

    Those may be more than the meta device can run.
    """
    cfg, task, model = trainer.cfg, trainer.task, trainer.get_model()
    own = not isinstance(model, VideoTranslateModel) or (
        type(model.encoder.video.network) is not R2Plus1D
    )
    if own or not cfg.dataset.batch_size or dataset.heads is not None:
        return None
    video_tokens = model.encoder.video.num_tokens(task.cfg.num_frames)
    target = max(prompt.max_target_tokens for prompt in dataset.prompts) + 1  # </s>
    batch = BatchShape(
        rows=cfg.dataset.batch_size,
        frames=task.cfg.num_frames,
        size=task.cfg.frame_size,
        source=video_tokens + PROMPT_TOKENS + target,
        target=target,
    )
    stage = zero_stage(cfg)
    setup = Setup(
        precision=precision(cfg),
        zero_stage=stage,
        gpus=trainer.data_parallel_world_size,
        offload_optimizer=bool(stage) and str(cfg.optimizer.offload_optimizer) != "none",
        update_freq=int(cfg.optimization.update_freq[0]),
    )
    copy = on_meta(cfg, task.tokenizer).to(next(model.parameters()).dtype).train()
    return memory_of_model(copy, setup, count_training(copy, batch))


def on_meta(cfg: Any, tokenizer: Tokenizer) -> VideoTranslateArchitecture:
    """The model once more, with sizes and without weights."""
    with torch.device("meta"):
        return build_model(saved_config(cfg.model), tokenizer.table_size, tokenizer.video)
