"""What ends a training run for good ends it on all processes, in one line that says what to do.

Non-finite losses and gradients, a loss scale at its floor, and too little memory. fairseq tries to
go on after the last, which leaves the other processes waiting forever.
"""

from typing import Any

import torch

SHOWN_CLIPS = 8


def one_line(trainer: Any, samples: list[dict[str, Any]], error: Exception) -> str | None:
    """Why training cannot go on after this error of a step, or None if training may go on."""
    update, rank = f"update {trainer.get_num_updates() + 1}", trainer.data_parallel_rank
    if isinstance(error, FloatingPointError):
        return (
            f"{update}: {' '.join(str(error).split())}; nothing of it was applied or saved. Clips "
            f"of the batch on process {rank}: {clips(samples)}. Go on from the last checkpoint in "
            f"{trainer.cfg.checkpoint.save_dir} with a lower --lr or --clip-norm"
        )
    # CUDA's error, and the CPU allocator's.
    if isinstance(error, torch.OutOfMemoryError) or any(
        text in str(error) for text in ("out of memory", "can't allocate memory")
    ):
        return (
            f"{update}: out of memory on process {rank} with {shapes(samples)}. Use a smaller "
            "--batch-size (and a larger --update-freq), --checkpoint-video-stages 2, "
            "--checkpoint-activations, or --optimizer deepspeed_adam --zero-stage 2; vt-memory "
            "predicts what fits"
        )
    return None


def clips(samples: list[dict[str, Any]]) -> str:
    """The first ids of a batch."""
    ids = [clip for sample in samples for clip in sample.get("clip_ids", [])]
    more = f" and {len(ids) - SHOWN_CLIPS} more" if len(ids) > SHOWN_CLIPS else ""
    return ", ".join(ids[:SHOWN_CLIPS]) + more if ids else "none (an empty batch)"


def shapes(samples: list[dict[str, Any]]) -> str:
    """Shapes of the tensors of each sample, for people."""
    described = []
    for sample in samples:
        inputs = sample.get("net_input", {}) | {"target": sample.get("target")}
        described += [f"{k} {tuple(v.shape)}" for k, v in inputs.items() if torch.is_tensor(v)]
    return ", ".join(described) or "an empty batch"
