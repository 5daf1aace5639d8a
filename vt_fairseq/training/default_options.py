"""What our task trains and generates with where the command does not say: one line says so.

fairseq's own defaults are those of other tasks: a learning rate of 0.25, ``cross_entropy``, batches
by tokens, texts of up to 200 tokens.
"""

import argparse
import logging
import sys
from collections.abc import Collection, Sequence
from typing import Any

from fairseq import options
from fairseq.tasks import TASK_REGISTRY

from vt_fairseq.errors import UserError
from vt_fairseq.models.architectures import naming_network
from vt_fairseq.models.video_backbones import UnknownNetwork, clips_for
from vt_fairseq.task import VideoTranslateTask
from vt_fairseq.task_config import INPUT_OPTIONS
from vt_fairseq.training import generation_options
from vt_fairseq.training.zero.adam import eval_betas
from vt_fairseq.visible_text import say

logger = logging.getLogger(__name__)

# Of generative fine-tuning (paper, C.1), with the batch that a V100 takes (4.1).
TRAINING = {"optimizer": "deepspeed_adam", "lr": [1e-4]}
BATCH_SIZE = 8
MAX_NEW_TOKENS = 64
# What is less than this divides by zero, or has torch end in a traceback.
LEAST = {"batch_size": 1, "update_freq": 1, "num_workers": 0}
# Any of these ends a training.
ENDS = ("max_update", "max_epoch", "stop_time_hours", "patience")


def parse_args_and_arch(
    parser: argparse.ArgumentParser,
    input_args: list[str] | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """fairseq's function, with the defaults of our task; one line and exit 2 for a mistake."""
    words = sys.argv[1:] if input_args is None else input_args
    try:
        chosen = our_defaults(parser, words)
    except UserError as error:
        say(f"error: {error}", sys.stderr)
        sys.exit(error.exit_code)
    parser.set_defaults(**chosen)
    found = _parse_args_and_arch(parser, input_args, *args, **kwargs)
    chosen_options = found[0] if isinstance(found, tuple) else found  # with the unknown words
    if is_our_task(chosen_options):
        given = given_inputs(words)
        chosen_options.given = ",".join(given)
        try:
            if isinstance(betas := getattr(chosen_options, "adam_betas", None), str):
                eval_betas(betas)  # of whichever Adam
            with naming_network():
                chosen |= network_inputs(chosen_options, given)
        except UserError as error:
            say(f"error: {error}", sys.stderr)
            sys.exit(error.exit_code)
    if chosen:
        named = ", ".join(f"--{k.replace('_', '-')} {shown(v)}" for k, v in chosen.items())
        logger.info("not given, so by default: %s", named)
    return found


def our_defaults(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """Options of a command for our task that it does not give, and should have.

    Raises UserError for a command that cannot be meant.
    """
    known, _ = parser.parse_known_args(list(words))
    if not is_our_task(known):
        return {}
    check_numbers(known)
    given = {word.split("=")[0] for word in words}
    chosen: dict[str, Any] = {}
    if "max_update" in known:  # fairseq-generate has an --arch, too
        check_training(known, given)
        heads = "--heads" in given
        criterion = "video_translate_classification" if heads else "video_translate"
        wanted = {"criterion": criterion, **TRAINING}
        chosen |= {k: v for k, v in wanted.items() if f"--{k}" not in given}
    if "batch_size" in known and known.batch_size is None and known.max_tokens is None:
        chosen["batch_size"] = BATCH_SIZE
    if "max_len_b" in known:
        if "--max-len-b" not in given:
            chosen["max_len_b"] = known.max_len_b = MAX_NEW_TOKENS
        generation_options.check(known, parser.parse_known_args([])[0])
    return chosen


def is_our_task(options: argparse.Namespace) -> bool:
    """Whether ``--task`` is ours, or one that derives from it."""
    kind = TASK_REGISTRY.get(getattr(options, "task", None), object)
    return issubclass(kind, VideoTranslateTask)


def given_inputs(words: Sequence[str]) -> list[str]:
    """Which of INPUT_OPTIONS the words of a command give."""
    given = {word.split("=")[0] for word in words}
    return [name for name in INPUT_OPTIONS if f"--{name.replace('_', '-')}" in given]


def network_inputs(options: argparse.Namespace, given: Sequence[str]) -> dict[str, Any]:
    """Those input options that are not ``given`` and that the video network asks for, now set.

    Raises UserError for a network that cannot be made.
    """
    name = getattr(options, "video_network", None)
    try:
        chosen = {} if name is None else clips_for(name)
    except UnknownNetwork:
        return {}  # making the model ends in the error, with what is known then
    chosen = {name: value for name, value in chosen.items() if name not in given}
    vars(options).update(chosen)
    return chosen


def check_numbers(known: argparse.Namespace) -> None:
    """Raise UserError for a number that is less than LEAST."""
    for name, least in LEAST.items():
        value = getattr(known, name, None)
        numbers = value if isinstance(value, list) else [value]
        if any(number is not None and number < least for number in numbers):
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} {shown(value)}: expected at least {least}")


def check_training(known: argparse.Namespace, given: Collection[str]) -> None:
    """Raise UserError for what cannot be trained; say so where it has no end."""
    if known.arch is None:
        raise UserError(
            "--arch is missing: video_translate_t5_small, _t5_base or _t5_large, or "
            "video_translate_tiny to try it on a CPU"
        )
    if known.lr_scheduler == "polynomial_decay" and "--total-num-update" not in given:
        raise UserError(
            "--lr-scheduler polynomial_decay: expected --total-num-update, after how many updates "
            "the rate has come down; mostly the number of --max-update"
        )
    if not any((getattr(known, name, 0) or 0) > 0 for name in ENDS):
        logger.warning(
            "nothing ends this training (--max-update, --max-epoch, --patience): Ctrl-C does, saved"
        )


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


_parse_args_and_arch = options.parse_args_and_arch
