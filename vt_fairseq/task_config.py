"""Options of the task ``video_translate``, and which of them a trained model is bound to."""

import argparse
from dataclasses import dataclass, field
from typing import List, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from vt_fairseq.data.text import PAPER, SOURCE_LAYOUTS
from vt_fairseq.data.text_noise import MASK_AMOUNTS, TEXT_INPUTS

# What a trained model needs to see its input as in training. In generation and scoring, those
# that the command does not give are taken from the checkpoint.
INPUT_OPTIONS = (
    "num_frames",
    "frame_size",
    "frame_sampling",
    "frames_per_second",
    "max_seconds",
    "resample_fps",
    "whole_frame",
    "define_action",
    "max_target_tokens",
    "max_source_tokens",
    "test_text",
    "test_mask_tokens",
    "no_context",
    "source_layout",
)

NOT_COMPILED = "none"
# Texts of a compiled training are padded to multiples of so many tokens, so that fewer sizes occur.
COMPILED_LENGTHS = 16


@dataclass
class VideoTranslateTaskConfig(FairseqDataclass):
    """Options of ``--task video_translate``."""

    data: str = field(default="", metadata={"help": "data directory that vt-prepare wrote"})
    video_root: str = field(
        default="", metadata={"help": "folder of the videos, if not the one vt-prepare saw"}
    )
    follow_links: bool = field(
        default=False,
        metadata={"help": "open videos and frames that links outside of the video root lead to"},
    )
    # Video
    num_frames: int = field(default=32, metadata={"help": "frames of a clip that the model sees"})
    frame_size: int = field(default=112, metadata={"help": "side of the square frames in pixels"})
    frame_sampling: ChoiceEnum(("uniform", "consecutive")) = field(  # type: ignore[valid-type]  # how fairseq writes it
        default="uniform",
        metadata={"help": "frames spread over the clip, or consecutive (Table 7a)"},
    )
    frames_per_second: float = field(
        default=16.0, metadata={"help": "rate of --frame-sampling consecutive"}
    )
    max_seconds: float = field(
        default=6.0,
        metadata={"help": "longest window of a clip; 0: the whole clip (appendix A.1)"},
    )
    cache_clips: float = field(
        default=0.0,
        metadata={
            "help": "GB of decoded clips that each process keeps, so that it decodes them once; "
            "for small data; needs --num-workers 0"
        },
    )
    max_bad_fraction: float = field(
        default=0.1,
        metadata={"help": "stop training when more of its clips than this cannot be read"},
    )
    test_window: str = field(
        default="center",
        metadata={"help": "window of a longer clip at test: center, whole, or K/N (K from 1)"},
    )
    resample_fps: float = field(
        default=0.0,
        metadata={"help": "sample on a grid of this many frames per second (EPIC: 24); 0: no grid"},
    )
    no_flip: bool = field(
        default=False, metadata={"help": "no random horizontal flip (left and right matter)"}
    )
    crop_scales: str = field(
        default="1,0.875,0.75,0.66",
        metadata={"help": "sides of the random training crops relative to the short side"},
    )
    whole_frame: bool = field(
        default=False,
        metadata={
            "help": "squeeze the whole frame into the square, in training before the random crop, "
            "instead of cutting off its sides: where what matters happens at the edges"
        },
    )
    rotate: float = field(
        default=0.0, metadata={"help": "turn training clips by up to so many degrees, either way"}
    )
    stretch: float = field(
        default=0.0,
        metadata={
            "help": "make height and width of training clips, each for itself, up to 1 + this "
            "times as long or as short"
        },
    )
    shift: float = field(
        default=0.0,
        metadata={"help": "move training clips by up to this share of their height and width"},
    )
    color_jitter: float = field(
        default=0.0,
        metadata={
            "help": "make brightness, contrast, saturation, red, green and blue of training clips, "
            "each for itself, up to 1 + this times as strong or as weak"
        },
    )
    gray_clips: float = field(
        default=0.0, metadata={"help": "share of the training clips that lose their colors"}
    )
    time_jitter: float = field(
        default=0.0,
        metadata={
            "help": "share of a training clip by which its start, its end and its speed change; "
            "decodes four times as many frames, which --cache-clips keeps"
        },
    )
    still_mix: float = field(
        default=0.0,
        metadata={
            "help": "let a still frame of another training clip show through half of the training "
            "clips, with a weight of up to this; reads more clips, which --cache-clips saves"
        },
    )
    blank_video: bool = field(
        default=False, metadata={"help": "show uniform gray: what is known without looking"}
    )
    # Text
    actions: str = field(
        default="",
        metadata={
            "help": "comma-separated actions to train and validate on; when empty caption, or "
            "with --heads the one that fits: classify or answer"
        },
    )
    action: str = field(
        default="", metadata={"help": "action (prompt) to use; overrides --actions"}
    )
    define_action: str = field(
        default="",
        metadata={"help": "more actions: NAME=FIELD:PROMPT, several separated by ';'"},
    )
    reuse_batch: bool = field(
        default=False,
        metadata={"help": "train on each decoded mini-batch once for every action, in turn"},
    )
    text_input: ChoiceEnum(TEXT_INPUTS) = field(  # type: ignore[valid-type]  # how fairseq writes it
        default="shuffled-masked",
        metadata={"help": "what training sees of the target's text (Table 7c)"},
    )
    mask_amount: ChoiceEnum(MASK_AMOUNTS) = field(  # type: ignore[valid-type]  # how fairseq writes it
        default="batch",
        metadata={"help": "masked share per mini-batch (section 4.1) or count per example (3.1)"},
    )
    text_dropout: float = field(
        default=0.5,
        metadata={"help": "share of training examples without any text input"},
    )
    test_text: ChoiceEnum(("none", "mask")) = field(  # type: ignore[valid-type]  # how fairseq writes it
        default="none", metadata={"help": "what stands for the absent text at test"}
    )
    test_mask_tokens: int = field(default=8, metadata={"help": "[MASK] tokens of --test-text mask"})
    no_context: bool = field(
        default=False, metadata={"help": "leave the rows' context (subtitles) out of the source"}
    )
    context: bool = field(
        default=False,
        metadata={"help": "put the rows' context in though the checkpoint leaves it out"},
    )
    max_target_tokens: str = field(
        default="caption=20,classify=12",
        metadata={"help": "longest targets in tokens, eos not counted"},
    )
    max_source_tokens: int = field(
        default=512, metadata={"help": "longest source; context is cut first, then text"}
    )
    source_layout: ChoiceEnum(SOURCE_LAYOUTS) = field(  # type: ignore[valid-type]  # how fairseq writes it
        default=PAPER,
        metadata={
            "help": "paper: a question is part of the text (4.2.4) and sources end in </s>, as "
            "T5's; early: as models of version 0.1 were trained"
        },
    )
    # Training
    compile: ChoiceEnum((NOT_COMPILED, "model", "blocks")) = field(  # type: ignore[valid-type]  # how fairseq writes it
        default=NOT_COMPILED,
        metadata={
            "help": "train on what torch.compile makes of the whole model, or of each layer and "
            "residual block, which takes less time to compile; needs a C++ compiler on a CPU"
        },
    )
    cuda_graphs: bool = field(
        default=False,
        metadata={
            "help": "on a GPU, launch each pass of a training with --compile model, and each step "
            "of generation, as one CUDA graph; not tried on a GPU yet"
        },
    )
    # Validation
    eval_bleu: bool = field(
        default=False,
        metadata={"help": "generate during validation; log bleu (sacrebleu) and exact_match"},
    )
    blank_check: int = field(
        default=2000,
        metadata={
            "help": "when training ends, compare the last validation's accuracy with that on blank "
            "video, on splits of up to this many rows; 0: never"
        },
    )
    eval_bleu_beam: int = field(default=1, metadata={"help": "beam of --eval-bleu"})
    eval_bleu_print_samples: bool = field(
        default=False,
        metadata={"help": "log a text and its references for each batch of --eval-bleu"},
    )
    eval_bleu_max_len: int = field(
        default=24, metadata={"help": "longest text of --eval-bleu in tokens"}
    )
    # Not an option: which of INPUT_OPTIONS the command gives, also at their defaults
    given: str = field(default="", metadata={"help": argparse.SUPPRESS})
    # Taken over from fairseq's own options
    seed: int = II("common.seed")
    cpu: bool = II("common.cpu")
    train_subset: str = II("dataset.train_subset")
    update_freq: List[int] = II("optimization.update_freq")
    required_seq_len_multiple: int = II("dataset.required_seq_len_multiple")
    results_path: Optional[str] = II("common_eval.results_path")
