"""The configuration in a checkpoint or an exported folder, made safe to build a model from.

fairseq builds whatever class a configuration names, and some of its own evaluate strings;
OmegaConf puts the environment into texts that ask for it. So classes have to derive from this
project's, options are those that their dataclasses have, and values are plain.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, cast

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from omegaconf import ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from vt_fairseq.data.text import EARLY
from vt_fairseq.errors import UserError

PROJECT = __name__.split(".")[0]
TASK_AND_MODEL = ("task", "model")
WITH_CRITERION = (*TASK_AND_MODEL, "criterion")
EXPECTED = {
    "task": "video_translate",
    "model": "a video_translate architecture",
    "criterion": "video_translate or video_translate_classification",
}
# What OmegaConf resolves, and what it takes for a value that is not there.
INTERPOLATION, ABSENT = "${", "???"
MAX_DEPTH, MAX_TEXT, MAX_SHOWN = 20, 8_000, 60
MAX_NUMBER = 2**31 - 1
# What version 0.1 did, which had no such options, where that is not the default.
FORMER = {"source_layout": EARLY}
# Options that decide how much memory a batch takes, whatever the weights are.
LIMITS = {
    "num_frames": 2**14,
    "frame_size": 2**13,
    "max_source_tokens": 2**17,
    "test_mask_tokens": 2**17,
    "eval_bleu_beam": 2**10,
    "eval_bleu_max_len": 2**17,
}
MAX_CLIP_BYTES = 2**30
# Paths of another machine, and what may be opened, which a file does not choose for this one.
LOCAL_OPTIONS = {"data": "", "video_root": "", "follow_links": False, "results_path": None}


def checked_config(
    saved: Any, origin: Path | str, parts: Sequence[str] = TASK_AND_MODEL
) -> dict[str, dict[str, Any]]:
    """``parts`` of a configuration in a file, in plain types: all options of their dataclasses.

    Options that the file lacks have their defaults or what FORMER says, those that are unknown here
    are left out, and paths of the machine that wrote it are empty.

    Args:
        saved: fairseq's whole configuration, as it stands in the file.
        origin: the file, for messages.
        parts: some of task, model and criterion.

    Raises:
        UserError: a part names a class that is neither this project's nor derived from one of it,
            a value has another type than its option or is out of bounds, or something, anywhere,
            is not plain or asks OmegaConf to look a value up.
    """
    check_plain(saved, f"{origin}: cfg")
    if not isinstance(saved, dict):
        raise UserError(f"{origin}: cfg: expected options by name, found {described(saved)}")
    whole = cast(Any, OmegaConf.structured(FairseqConfig()))
    for part in parts:
        options = saved.get(part)
        if options is None and part == "criterion":
            continue  # of what vt-init wrote: nothing was trained
        if not isinstance(options, dict):
            raise UserError(
                f"{origin}: cfg.{part}: expected options by name, found {described(options)}"
            )
        merge_options(whole, part, options, origin)
    made = cast(dict[str, Any], OmegaConf.to_container(whole, resolve=True, enum_to_str=True))
    if "task" in parts:
        made["task"] |= {k: v for k, v in LOCAL_OPTIONS.items() if k in made["task"]}
        check_clip(made["task"], f"{origin}: cfg.task")
    return {part: made[part] for part in parts if saved.get(part) is not None}


def merge_options(whole: Any, part: str, options: Mapping[str, Any], origin: Path | str) -> None:
    """Put one part into fairseq's configuration; raise UserError where it does not fit."""
    name = options.get("_name")
    known = named_options(part, name)
    if known is None:
        raise UserError(
            f"{origin} is a checkpoint of the {part} {shown_name(name)}, expected "
            f"{EXPECTED[part]}; a {part} of your own, which derives from it, is known where "
            "--user-dir names the folder that registers it"
        )
    with open_dict(whole):
        whole[part] = OmegaConf.structured(known)
        whole[part]._name = name
    if part == "task":
        whole[part].update({k: v for k, v in FORMER.items() if k in whole[part]})
    for option in fields(known):
        if option.name == "_name" or option.name not in options:
            continue
        value, place = options[option.name], f"{origin}: cfg.{part}.{option.name}"
        try:
            # A path of the machine that trained, which is not used here, may hold any character.
            shown = isinstance(value, str) and option.name not in LOCAL_OPTIONS
            if value == ABSENT or (shown and not value.isprintable()):
                raise ValueError(value)
            whole[part][option.name] = value
        except (OmegaConfBaseException, ValueError, TypeError, OverflowError) as error:
            raise UserError(
                f"{place}: expected {expected_value(option.type)}, found {described(value)}"
            ) from error
        check_bounds(option.name, whole[part][option.name], place)


def shown_name(name: Any) -> str:
    """A name for a message, in quotes where it is none."""
    is_name = isinstance(name, str) and re.fullmatch(rf"[\w.-]{{1,{MAX_SHOWN}}}", name, re.ASCII)
    return name if is_name else described(name)


def expected_value(kind: Any) -> str:
    """What an option's type takes, for a message."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(str(choice.value) for choice in kind)}"
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def named_options(part: str, name: Any) -> FairseqDataclass | None:
    """The options of the class that a part names; None unless it derives from this project's."""
    if not isinstance(name, str):
        return None
    if part == "model":
        classes, options = ARCH_MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY
    elif part == "task":
        classes, options = TASK_REGISTRY, TASK_DATACLASS_REGISTRY
    else:
        classes, options = (REGISTRIES[part][kind] for kind in ("registry", "dataclass_registry"))
    bases = getattr(classes.get(name), "__mro__", ())
    if not any(base.__module__.split(".")[0] == PROJECT for base in bases):
        return None
    return options[name]()


def check_plain(value: Any, place: str, depth: int = 0) -> None:
    """Raise UserError for what is neither text, a number, a truth value, None, a list nor a dict.

    Also for texts that OmegaConf looks up, and for what is too deep, too long or too large.
    """
    if depth > MAX_DEPTH:
        raise UserError(f"{place:.{MAX_SHOWN}} ...: expected at most {MAX_DEPTH} levels")
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise UserError(f"{place}: a text of {len(value):,} letters, expected {MAX_TEXT:,}")
        if INTERPOLATION in value:
            raise UserError(f"{place}: {described(value)} would be looked up, expected a value")
    elif type(value) is dict:
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{place}: expected names of options, found {described(key)}")
            check_plain(item, f"{place}.{shortened(key)}", depth + 1)
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{place}[{index}]", depth + 1)
    elif value is not None and type(value) not in (bool, int, float):
        raise UserError(f"{place}: expected plain values, found {described(value)}")


def check_bounds(option: str, value: Any, place: str) -> None:
    """Raise UserError for numbers that no model needs."""
    for item in value if isinstance(value, ListConfig) else [value]:
        if isinstance(item, (int, float)):
            limit = LIMITS.get(option, MAX_NUMBER)
            if not abs(item) <= limit:  # nor is what is not a number
                raise UserError(
                    f"{place}: expected a number up to {limit:,}, found {described(item)}"
                )


def check_clip(task: Mapping[str, Any], place: str) -> None:
    """Raise UserError for clips that no machine holds: F frames of H x W x 3 bytes."""
    size = task.get("num_frames", 1) * task.get("frame_size", 1) ** 2 * 3
    if size > MAX_CLIP_BYTES:
        raise UserError(
            f"{place}: {task['num_frames']} frames of {task['frame_size']} x {task['frame_size']} "
            f"pixels are {size:,} bytes, expected at most {MAX_CLIP_BYTES:,}"
        )


def check_task_state(state: Any, origin: Path | str) -> dict[str, Any]:
    """``state`` if it is what the task saves: vocabulary, its hash, classes; else UserError."""
    place = f"{origin}: task_state"
    if not isinstance(state, dict):
        raise UserError(f"{place}: expected values by name, found {described(state)}")
    vocabulary = state.get("vocabulary")
    is_bytes = isinstance(vocabulary, torch.Tensor) and vocabulary.dtype == torch.uint8
    if vocabulary is not None and not (is_bytes and vocabulary.dim() == 1):
        raise UserError(f"{place}.vocabulary: expected bytes, found {described(vocabulary)}")
    if not isinstance(state.get("vocabulary_sha256", ""), (str, type(None))):
        raise UserError(f"{place}.vocabulary_sha256: expected text")
    for name in ("classes", "head_classes"):
        check_classes(state.get(name, {}), f"{place}.{name}")
    return state


def check_classes(classes: Any, place: str) -> None:
    """Raise UserError for anything but lists of names by what they are names of."""
    if not isinstance(classes, dict) or not all(isinstance(kind, str) for kind in classes):
        raise UserError(f"{place}: expected lists of names, found {described(classes)}")
    for kind, names in classes.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{place}.{shortened(kind)}: expected names, found {described(names)}")


def described(value: Any) -> str:
    """A value of a stranger's file for a message: short, one line, without control characters."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**MAX_SHOWN:
        return f"a number of {value.bit_length()} bits"
    if value is None or isinstance(value, (str, bool, int, float)):
        return shortened(value)
    return f"a {type(value).__name__}"


def shortened(value: Any) -> str:
    """Its beginning as Python writes it, in ASCII."""
    text = ascii(value[:MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= MAX_SHOWN + 2 else f"{text[:MAX_SHOWN]}..."
