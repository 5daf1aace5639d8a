"""``vt-memory``: how much memory a training run needs on each GPU, before it is started.

Also takes the options of the model as ``fairseq-train`` has them (``--freeze-video`` ...).
"""

import argparse
import sys
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from vt_fairseq.cli import command
from vt_fairseq.visible_text import json_text, say

if TYPE_CHECKING:
    from vt_fairseq.training.memory.prediction import MemoryPrediction, Run

PROG = "vt-memory"
TEXT_TOKENS = 40  # of a source beside the video's
EXAMPLE = (
    "vt-memory --arch video_translate_t5_large --batch-size 8 --dtype fp16 --zero-stage 2 --gpus 8"
)


def build_parser(with_model: bool = True) -> argparse.ArgumentParser:
    """The options of ``vt-memory``.

    Args:
        with_model: those of the model, too, for which torch and fairseq are imported, in seconds.
    """
    from vt_fairseq.training.memory.setup import BatchShape, Setup

    made = command.parser(PROG, "Predicted memory of a training run on each GPU.", EXAMPLE)
    made.add_argument(
        "--help-model", action="help", help="show the options of the model as well, and exit"
    )
    made.add_argument(
        "--arch", default="video_translate_t5_large", help="architecture (default: %(default)s)"
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    batch = made.add_argument_group("batch of one GPU")
    default = BatchShape()
    for option, number, text in (
        ("--batch-size", default.rows, "clips"),
        ("--num-frames", f"the network's, or {default.frames}", "frames of a clip"),
        (
            "--frame-size",
            f"the network's, or {default.size}",
            "side of the square frames in pixels",
        ),
        (
            "--source-tokens",
            f"{TEXT_TOKENS} and the video's",
            "tokens of the encoder's input, video included",
        ),
        ("--target-tokens", default.target, "tokens of the target"),
    ):
        fixed = number if isinstance(number, int) else None
        help_ = f"{text} (default: {number})"
        batch.add_argument(option, type=int, default=fixed, help=help_)
    run = made.add_argument_group("training")
    setup = Setup()
    command.add_with_aliases(
        run,
        "--dtype",
        "--precision",
        dest="precision",
        choices=command.DTYPES,
        default=setup.precision,
        help="precision of training (default: %(default)s)",
    )
    run.add_argument(
        "--zero-stage",
        type=int,
        choices=range(4),
        default=setup.zero_stage,
        help="DeepSpeed's ZeRO stage; 0: fairseq's own trainer (default: %(default)s)",
    )
    run.add_argument(
        "--gpus",
        type=int,
        default=setup.gpus,
        help="number of GPUs on all nodes (default: %(default)s)",
    )
    run.add_argument(
        "--offload-optimizer",
        choices=("none", "cpu"),
        default="none",
        help="where the optimizer's states are kept: the GPU (none) or the CPU "
        "(default: %(default)s)",
    )
    run.add_argument(
        "--update-freq",
        type=int,
        default=setup.update_freq,
        help="micro batches per update (default: %(default)s)",
    )
    run.add_argument(
        "--reduce-bucket-size",
        type=float,
        default=setup.reduce_bucket_size,
        help="gradients that ZeRO reduces at once (default: %(default)s)",
    )
    run.add_argument(
        "--stage3-max-live-parameters",
        type=float,
        default=setup.stage3_max_live_parameters,
        help="parameters that ZeRO-3 keeps gathered (default: %(default)s)",
    )
    command.add_user_dir(made)
    model = made.add_argument_group(
        "model (where not given, as --arch has it)",
        None if with_model else "every option that fairseq-train has for it: see --help-model",
    )
    if with_model:
        with command.quiet_imports():
            from fairseq.dataclass.utils import gen_parser_from_dataclass

            from vt_fairseq.models.architectures import VideoTranslateConfig
        gen_parser_from_dataclass(model, VideoTranslateConfig(), delete_default=True)
    return made


def _described_run(args: argparse.Namespace) -> "Run":
    from vt_fairseq.models.architectures import VideoTranslateConfig, architecture, naming_network
    from vt_fairseq.models.video_backbones import input_of, network_on_meta
    from vt_fairseq.training.memory.prediction import BatchShape, Run, Setup

    names = {field.name for field in fields(VideoTranslateConfig)}
    given = {n: value for n, value in vars(args).items() if n in names and value is not None}
    config = replace(architecture(args.arch), **given)
    default = BatchShape()
    with naming_network():
        network = network_on_meta(config.video_network)
    clips = input_of(network)
    frames = _given(args.num_frames, clips.get("num_frames", default.frames))
    tokens = 1 if str(config.video_pooling) == "temporal" else network.num_tokens(frames)
    return Run(
        config=config,
        batch=BatchShape(
            rows=args.batch_size,
            frames=frames,
            size=_given(args.frame_size, clips.get("frame_size", default.size)),
            source=_given(args.source_tokens, tokens + TEXT_TOKENS),
            target=args.target_tokens,
        ),
        setup=Setup(
            precision=args.precision,
            zero_stage=args.zero_stage,
            gpus=args.gpus,
            offload_optimizer=args.offload_optimizer == "cpu",
            update_freq=args.update_freq,
            reduce_bucket_size=int(args.reduce_bucket_size),
            stage3_max_live_parameters=int(args.stage3_max_live_parameters),
        ),
    )


def _given(value: int | None, otherwise: float) -> int:
    return int(otherwise) if value is None else value


def _terms(prediction: "MemoryPrediction") -> dict[str, int]:
    states, training = prediction.states, prediction.training
    backward = prediction.backward
    return {
        "parameters": states.parameters,
        "gradients": backward - training.peak,
        "optimizer": states.optimizer,
        "buckets": states.buckets,
        "activations": training.activations,
        "work_space": training.work_space,
        "optimizer_step": max(prediction.step - backward, 0),
        "context": prediction.context,
    }


EXPLANATIONS = {
    "parameters": "with BatchNorm's statistics",
    "gradients": "of the parameters, as far as they are there at the peak of the backward pass",
    "optimizer": "fp32 parameters and Adam's two moments",
    "buckets": "for reducing gradients; ZeRO-3: parameters gathered, too",
    "activations": "kept for the backward pass, at its peak",
    "work_space": "intermediate results beyond that",
    "optimizer_step": "what the optimizer's step needs beyond these, when activations are gone",
    "context": "CUDA, NCCL, cuDNN, fragmentation: an assumption",
}


def _report(prediction: "MemoryPrediction", suggestions: dict[str, str | None]) -> dict[str, Any]:
    from vt_fairseq.training.memory.prediction import GIB

    gib = {name: round(size / GIB, 3) for name, size in _terms(prediction).items()}
    return {
        "gpu_gib": gib | {"total": round(prediction.total / GIB, 3)},
        "cpu_gib": round(prediction.states.cpu / GIB, 3),
        "fits_v100": prediction.fits_v100(),
        "suggestion": suggestions,
    }


def _lines(report: dict[str, Any]) -> list[str]:
    lines = ["GiB on each GPU"]
    for name, amount in report["gpu_gib"].items():
        lines.append(f"{name:15}{amount:8.2f}  {EXPLANATIONS.get(name, '')}".rstrip())
    if report["cpu_gib"]:
        lines.append(f"{'cpu':15}{report['cpu_gib']:8.2f}  CPU memory for each GPU's process")
    for card, fits in report["fits_v100"].items():
        if fits:
            lines.append(f"{card} V100: fits")
        else:
            suggestion = report["suggestion"][card]
            lines.append(f"{card} V100: does not fit; " + (suggestion or "no suggestion found"))
    return lines


@command.console_script(PROG)
def main() -> None:
    """The console script."""
    asks_for_help = {"-h", "--help"} & set(sys.argv[1:])
    args = build_parser(with_model=not asks_for_help).parse_args()
    command.import_user_dir(args.user_dir)
    from vt_fairseq.training.memory.prediction import GIB, first_sufficient, predict

    run = _described_run(args)
    prediction = predict(run)
    suggestions: dict[str, str | None] = {}
    for card, fits in prediction.fits_v100().items():
        if not fits:
            sufficient = first_sufficient(run, card)
            suggestions[card] = (
                sufficient and f"with {sufficient[0]}: {sufficient[1].total / GIB:.2f}"
            )
    report = _report(prediction, suggestions)
    for line in [json_text(report)] if args.json else _lines(report):
        say(line)


if __name__ == "__main__":
    main()
