"""What a memory prediction is asked about; nothing here imports torch, so that --help is quick."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchShape:
    """Shape of one batch on one GPU.

    Attributes:
        rows: clips, each with one source and one target.
        frames: of a clip.
        size: side of the square frames in pixels.
        source: tokens of the encoder's input, the video's among them.
        target: tokens.
    """

    rows: int = 8
    frames: int = 32
    size: int = 112
    source: int = 44
    target: int = 24


@dataclass(frozen=True)
class Setup:
    """How a model is trained.

    Attributes:
        precision: "fp16", "bf16" or "fp32".
        zero_stage: 1 to 3 for DeepSpeed's ZeRO, 0 for fairseq's own trainer.
        gpus: processes that train together, one per GPU.
        offload_optimizer: whether the optimizer and its states are on the CPU (ZeRO only).
        reduce_bucket_size: gradients that ZeRO reduces at once, in numbers.
        update_freq: micro batches per update.
        stepped_at_once: share of the elements that the optimizer steps at once, if not
            ``training.parts.SHARES``. A run of ZeRO that began when it was all of them (1.0) goes
            on like that.
        stage3_max_live_parameters: parameters that ZeRO-3 keeps gathered, in numbers; DeepSpeed's
            default is more than our largest model has.
    """

    precision: str = "fp16"
    zero_stage: int = 2
    gpus: int = 1
    offload_optimizer: bool = False
    reduce_bucket_size: int = 50_000_000
    update_freq: int = 1
    stepped_at_once: float | None = None
    stage3_max_live_parameters: int = 1_000_000_000
