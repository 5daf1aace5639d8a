"""``vt-init``: pretrained weights into a checkpoint to start from, and checkpoints into folders."""

import argparse
import itertools
import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vt_fairseq.cli import command
from vt_fairseq.errors import UserError
from vt_fairseq.files.bounded_files import MAX_OBJECT, read_file
from vt_fairseq.visible_text import say

if TYPE_CHECKING:
    from vt_fairseq.data.tokenizer import Tokenizer
    from vt_fairseq.models.architectures import VideoTranslateConfig
    from vt_fairseq.models.pretrained.t5_weights import T5Weights
    from vt_fairseq.models.pretrained.video_weights import VideoWeights

PROG = "vt-init"
EXAMPLE = (
    "vt-init --t5 t5-large --video r2plus1d_34_clip32_ig65m_from_scratch-449a7af9.pth "
    "--arch video_translate_t5_large --out init.pt\n"
    "  vt-init --from-checkpoint checkpoint_best.pt --export model/"
)
FROM_T5 = "from-t5"
RANDOM = "random"
MAX_NAMED = 20  # tensors that are left out


def build_parser() -> argparse.ArgumentParser:
    """The options of ``vt-init``."""
    made = command.parser(
        PROG,
        "Join pretrained T5 and R(2+1)D weights into a checkpoint that training starts from, or "
        "export a checkpoint as safetensors folders, its T5 as one that transformers loads.",
        EXAMPLE,
    )
    source = made.add_argument_group("a model from pretrained weights")
    source.add_argument(
        "--t5",
        type=Path,
        help="Hugging Face folder of a T5, or its weights: model.safetensors, pytorch_model.bin",
    )
    source.add_argument(
        "--video",
        help="weights of the video network: IG65M or torchvision .pth, Caffe2 .pkl, a folder of "
        "transformers, a model of yours (its checkpoint or exported folder); or 'random'",
    )
    source.add_argument(
        "--arch",
        help=f"video_translate_t5_large and so on, or {FROM_T5} for the sizes in its config.json",
    )
    source.add_argument("--t5-variant", help="v1_0, or v1_1 for T5 1.1 and flan-t5")
    source.add_argument("--video-network", help="34, 18, videomae, ... (default: that of --arch)")
    source.add_argument(
        "--seed", type=command.seed, default=1, help="seed of the new weights (default: 1)"
    )
    source = made.add_argument_group("a model from a checkpoint")
    source.add_argument(
        "--from-checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="checkpoint that fairseq-train wrote",
    )
    source.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="RUN the code in --from-checkpoint, and write a copy without code to --out",
    )
    made.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="T5's spiece.model (default: the one beside the T5, or in the checkpoint)",
    )
    made.add_argument("--out", type=Path, metavar="FILE", help="checkpoint to write")
    made.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="folder to write: model.safetensors, config.json, spiece.model, and t5/ for "
        "transformers",
    )
    command.add_user_dir(made)
    return made


@command.console_script(PROG)
def main() -> None:
    """The console script."""
    args = build_parser().parse_args()
    _check(args)
    command.import_user_dir(args.user_dir)
    with command.quiet_imports():
        # What a checkpoint may name is what these register.
        import vt_fairseq.criterions.classification
        import vt_fairseq.criterions.cross_entropy
        import vt_fairseq.models.architectures
        import vt_fairseq.task  # noqa: F401
        from vt_fairseq.files.atomic_files import atomic_folder
        from vt_fairseq.files.untrusted_files import read_trusted
        from vt_fairseq.models.checkpoint_config import WITH_CRITERION, checked_config
        from vt_fairseq.models.pretrained.exported import read_model, write_exported
        from vt_fairseq.models.pretrained.t5_export import write_t5

    if args.trust_checkpoint:
        content = read_trusted(args.from_checkpoint)
        if isinstance(content, dict) and content.get("cfg") is not None:
            checked_config(content["cfg"], args.from_checkpoint, WITH_CRITERION)
        _write(content, args.out)
        say(f"wrote {args.out}, which runs nothing")
        return
    state = (
        read_model(args.from_checkpoint, args.vocabulary) if args.from_checkpoint else _joined(args)
    )
    if args.out:
        _write(state, args.out)
        say(f"wrote {args.out}; train it with")
        say(f"  {shlex.join(_training(args, state['cfg']['model']))}")
    if args.export:
        with atomic_folder(args.export) as partial:
            write_exported(state, partial)
            write_t5(state, partial / "t5")
        say(f"wrote {args.export} and {args.export / 't5'}")


def _check(args: argparse.Namespace) -> None:
    """Raise UserError where the options do not go together."""
    joining = {"--t5": args.t5, "--video": args.video, "--arch": args.arch}
    others = {"--t5-variant": args.t5_variant, "--video-network": args.video_network}
    new = args.export
    if new and new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise UserError(f"{new} exists and is not an empty folder: remove it or take another")
    if args.trust_checkpoint:
        if not (args.from_checkpoint and args.out) or args.export or any(joining.values()):
            raise UserError("--trust-checkpoint goes with --from-checkpoint and --out alone")
        return
    if args.from_checkpoint:
        given = [name for name, value in {**joining, **others}.items() if value]
        if given or args.out or not args.export:
            found = ", ".join(given) or ("--out" if args.out else "neither")
            raise UserError(f"--from-checkpoint goes with --export alone, found {found}")
        return
    missing = [name for name, value in joining.items() if not value]
    if missing:
        raise UserError(f"expected {' and '.join(missing)}, or --from-checkpoint; see --help")
    if args.out and args.out.is_dir():
        raise UserError(f"--out {args.out} is a folder, expected a file")
    if not (args.out or args.export):
        raise UserError("expected --out or --export, where to write the model")


def _joined(args: argparse.Namespace) -> dict[str, Any]:
    """The checkpoint to start from."""
    from vt_fairseq.models.pretrained.initial import initial_checkpoint, size_differences
    from vt_fairseq.models.pretrained.t5_weights import read_t5

    t5 = read_t5(args.t5)
    config, video = _with_video(args, _architecture(args, t5))
    if differing := size_differences(t5, config):
        gated = t5.dims.gated_gelu
        kind = "T5 1.1 or flan-t5 (gated gelu)" if gated else "T5 1.0 (relu)"
        variant = "v1_1" if gated else "v1_0"
        raise UserError(
            f"{args.t5} is a {kind} of other sizes than the architecture: {differing}; "
            f"take --t5-variant {variant} and the --arch that fits, or --arch from-t5"
        )
    state = initial_checkpoint(
        config,
        t5=t5,
        video=video,
        tokenizer=_tokenizer(args, t5),
        seed=args.seed,
        cfg=_whole_configuration(config),
    )
    for line in _report(state["pretrained"]):
        say(line)
    return state


def _architecture(args: argparse.Namespace, t5: "T5Weights") -> "VideoTranslateConfig":
    from vt_fairseq.models.architectures import architecture, dims_as_text
    from vt_fairseq.models.t5 import T5_VARIANTS

    if args.t5_variant not in (None, *T5_VARIANTS):
        raise UserError(f"--t5-variant {args.t5_variant}: expected one of {', '.join(T5_VARIANTS)}")
    given = {"t5_variant": args.t5_variant, "video_network": args.video_network}
    changes = {name: value for name, value in given.items() if value is not None}
    name = args.arch
    if args.arch == FROM_T5:
        if args.t5_variant:
            raise UserError(f"--arch {FROM_T5} takes --t5-variant from the T5's config.json")
        if not t5.has_config:
            raise UserError(f"--arch {FROM_T5} needs a config.json beside {args.t5}")
        name = "video_translate"
        changes |= {"t5_dims": dims_as_text(t5.dims), "dropout": t5.dims.dropout}
    config = replace(architecture(name), **changes)
    config._name = name
    return config


def _with_video(
    args: argparse.Namespace, config: "VideoTranslateConfig"
) -> "tuple[VideoTranslateConfig, VideoWeights | Path | None]":
    """The architecture with the sizes that the video network's weights have, and the weights."""
    from vt_fairseq.models.architectures import naming_network
    from vt_fairseq.models.pretrained.exported import is_model
    from vt_fairseq.models.pretrained.video_weights import read_video
    from vt_fairseq.models.r2plus1d import R2PLUS1D_DIMS
    from vt_fairseq.models.video_backbones import (
        VIDEO_NETWORKS,
        joined_name,
        network_maker,
        split_name,
    )

    with naming_network():
        name, given = split_name(config.video_network)
    if args.video == RANDOM or name not in VIDEO_NETWORKS:
        return config, None
    path = Path(args.video)
    if is_model(path):
        return _with_trained_video(args, config, path)
    if name in R2PLUS1D_DIMS:
        return config, read_video(path)
    if not path.exists():
        raise UserError(f"--video {path}: no such file or folder")
    with naming_network():
        arguments_of = getattr(network_maker(name), "arguments_of", None)
    if arguments_of is not None and path.is_dir():
        sizes = {key: value for key, value in arguments_of(path).items() if key not in given}
        config = replace(config, video_network=joined_name(name, {**sizes, **given}))
    return config, path


def _with_trained_video(
    args: argparse.Namespace, config: "VideoTranslateConfig", path: Path
) -> "tuple[VideoTranslateConfig, VideoWeights]":
    """The same with the network of a checkpoint or an exported folder; the rest is left there."""
    from vt_fairseq.models.pretrained.exported import read_model
    from vt_fairseq.models.pretrained.initial import NETWORK
    from vt_fairseq.models.pretrained.video_weights import OWN, VideoWeights

    state = read_model(path)
    trained = state["cfg"]["model"]["video_network"]
    if args.video_network not in (None, trained):
        raise UserError(
            f"{path} has the video network {trained}, --video-network is {args.video_network}"
        )
    tensors = {
        name.removeprefix(NETWORK): tensor
        for name, tensor in state["model"].items()
        if name.startswith(NETWORK)
    }
    return replace(config, video_network=trained), VideoWeights(path, OWN, tensors)


def _tokenizer(args: argparse.Namespace, t5: "T5Weights") -> "Tokenizer":
    from vt_fairseq.data.tokenizer import Tokenizer

    if args.vocabulary is None:
        if t5.vocabulary is None:
            raise UserError(f"no spiece.model beside {args.t5}: add --vocabulary spiece.model")
        return Tokenizer.from_file(t5.vocabulary)
    tokenizer = Tokenizer.from_file(args.vocabulary)
    if t5.vocabulary and read_file(t5.vocabulary, MAX_OBJECT) != tokenizer.model_proto:
        raise UserError(
            f"{args.vocabulary} differs from {t5.vocabulary}, which belongs to the weights"
        )
    return tokenizer


def _whole_configuration(config: "VideoTranslateConfig") -> dict[str, Any]:
    """fairseq's configuration at its defaults, in plain values."""
    from fairseq.dataclass.configs import FairseqConfig
    from omegaconf import OmegaConf, open_dict

    from vt_fairseq.models.architectures import naming_network
    from vt_fairseq.models.video_backbones import clips_for
    from vt_fairseq.task_config import VideoTranslateTaskConfig

    cfg = OmegaConf.structured(FairseqConfig())
    with open_dict(cfg):
        cfg.model = OmegaConf.structured(config)
        cfg.task = OmegaConf.structured(VideoTranslateTaskConfig())
        cfg.task._name = "video_translate"
        with naming_network():
            cfg.task.update(clips_for(config.video_network))
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def _write(content: Any, path: Path) -> None:
    import torch

    from vt_fairseq.files.atomic_files import atomic_file
    from vt_fairseq.training.checkpoints import system_error_kept

    with atomic_file(path) as file, system_error_kept():
        torch.save(content, file)


def _training(args: argparse.Namespace, model: dict[str, Any]) -> list[str]:
    """The words of a ``fairseq-train`` that builds the same model and begins at ``--out``."""
    from vt_fairseq.models.architectures import ARCHITECTURE_OPTIONS, architecture

    usual, names = architecture(model["_name"]), (*ARCHITECTURE_OPTIONS, "dropout")
    options = {
        "user_dir": args.user_dir or _own_user_dir(),
        "task": "video_translate",
        "arch": model["_name"],
        **{name: model[name] for name in names if str(model[name]) != str(getattr(usual, name))},
        "finetune_from_model": args.out,
    }
    if args.video == RANDOM and usual.video_lr_scale != 1:  # which is for pretrained networks
        options["video_lr_scale"] = 1
    words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items()]
    # A checkpoint of every epoch, which fairseq keeps otherwise, fills a disk with few clips.
    return ["fairseq-train", "DATA", *itertools.chain(*words), "--no-epoch-checkpoints"]


def _own_user_dir() -> str:
    """What ``--user-dir`` has to name from this folder: fairseq looks here, and beside itself."""
    import fairseq

    beside = Path(fairseq.__path__[0]).parent / "user_dir"
    own = Path(__file__).resolve().parents[2] / "user_dir"
    return "user_dir" if Path("user_dir").is_dir() or beside.is_dir() else str(own)


def _report(report: dict[str, Any]) -> list[str]:
    lines = []
    for source in report["sources"]:
        lines.append(
            f"{source['part']:10} {source['file']}, {source['bytes']:,} bytes, "
            f"sha256 {source['sha256']}{_named_hash(source)}"
        )
    for part, used in report["used"].items():
        if used["tensors"]:
            lines.append(
                f"loaded     {used['tensors']} tensors of {part}, {used['numbers']:,} numbers"
            )
    lines.append(f"left out   {_named(report['dropped'])}")
    lines += _new(report["new"], report["seed"])
    lines += [f"new row    {token} starts as {o}" for token, o in report["new_rows"].items()]
    lines.append(f"model      {report['parameters']:,} parameters")
    return lines


def _named(dropped: list[str]) -> str:
    """Names of tensors; where they are many, of the modules that they belong to."""
    if len(dropped) <= MAX_NAMED:
        return ", ".join(dropped) or "nothing"
    parts = Counter(name.partition(".")[0] for name in dropped)
    return ", ".join(f"{number} tensors of {name}" for name, number in parts.items())


def _named_hash(source: dict[str, Any]) -> str:
    """Whether a name such as ``weights-449a7af9.pth`` has the hash's beginning."""
    named = re.search(r"-([0-9a-f]{8})\.pth$", source["file"])
    if not named:
        return ""
    return " (as it is named)" if source["sha256"].startswith(named[1]) else " (not as it is named)"


def _new(new: dict[str, int], seed: int) -> list[str]:
    """New tensors: parameters by name, those of a whole network and counters by their number."""
    counters = [name for name in new if name.endswith("num_batches_tracked")]
    network = [n for n in new if n.startswith("encoder.video.network.") and n not in counters]
    lines = [f"new        {len(counters)} counters of BatchNorm, 0"] if counters else []
    if network:
        numbers = sum(new[name] for name in network)
        lines.append(f"new        {len(network)} tensors of the video network, {numbers:,} numbers")
    others = [name for name in new if name not in counters and name not in network]
    return lines + [f"new        {name}, {new[name]:,} numbers, seed {seed}" for name in others]


if __name__ == "__main__":
    main()
