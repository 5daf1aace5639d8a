"""What fairseq-generate can be told for our task: an option that would change nothing is refused.

fairseq's parser knows some 300 options, of which its generation reads the few in ``READ``; and some
of what it reads asks for what our models and data do not have (``REFUSED``).
"""

import argparse
import ast
import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vt_fairseq.errors import UserError
from vt_fairseq.models.architectures import VideoTranslateConfig

# Options that do what they say, by their names in fairseq's dataclasses.
READ = frozenset(
    (
        *("path", "quiet", "model_overrides", "results_path"),
        *("beam", "nbest", "max_len_b", "min_len", "unnormalized", "lenpen", "unkpen"),
        *("temperature", "sampling", "sampling_topk", "sampling_topp", "no_repeat_ngram_size"),
        *("prefix_size", "score_reference"),
        *("gen_subset", "batch_size", "max_tokens", "num_workers", "data_buffer_size"),
        *("num_shards", "shard_id"),
        *("seed", "cpu", "fp16", "bf16", "user_dir", "task", "scoring"),
        *("no_progress_bar", "log_format", "log_interval"),
    )
)
SCORERS = ("bleu", "sacrebleu", "chrf")

_SOURCE_LENGTH = "the source is a prompt and a video, whose length says nothing of the text's"
_TWO_PASSES = "our models have one decoder"
_NO_ATTENTION = "our decoder does not give its attention away"
_ITERATIVE = "our models write from left to right"
_DIVERSE = (
    "its scores are not likelihoods, and fairseq's search goes on with texts that have ended; "
    "--sampling gives texts that differ"
)
_WHOLE_TEXT = "texts are whole already: T5's sentencepiece model reads and writes them"
_DROPOUT = "our models' dropout is off whenever they generate"
_ONE_FILE = "--path names the checkpoint's file or folder itself"
_SHARDS = "--num-shards and --shard-id divide the rows among processes"
# Why an option is refused where it is more than not being read.
REFUSED: dict[str, str] = {
    **dict.fromkeys(("max_len_a", "match_source_len"), f"{_SOURCE_LENGTH}: take --max-len-b"),
    **dict.fromkeys(("beam_mt", "max_len_a_mt", "max_len_b_mt", "lenpen_mt"), _TWO_PASSES),
    **dict.fromkeys(("print_alignment", "replace_unk"), _NO_ATTENTION),
    **dict.fromkeys(
        (
            *("print_step", "retain_iter_history", "iter_decode_eos_penalty"),
            *("iter_decode_max_iter", "iter_decode_force_max_iter", "iter_decode_with_beam"),
            "iter_decode_with_external_reranker",
        ),
        _ITERATIVE,
    ),
    **dict.fromkeys(
        ("diverse_beam_groups", "diverse_beam_strength", "diversity_rate"),
        _DIVERSE,
    ),
    **dict.fromkeys(("retain_dropout", "retain_dropout_modules"), _DROPOUT),
    **dict.fromkeys(("post_process", "bpe", "tokenizer"), _WHOLE_TEXT),
    **dict.fromkeys(("checkpoint_suffix", "checkpoint_shard_count"), _ONE_FILE),
    **dict.fromkeys(
        ("distributed_world_size", "distributed_rank", "distributed_num_procs"), _SHARDS
    ),
    **dict.fromkeys(("lm_path", "lm_weight"), "there is no language model with T5's vocabulary"),
    "constraints": "rows name no words that their texts must have; vt-score ranks given texts",
    "sacrebleu": "it only silences a warning of fairseq's; --scoring sacrebleu measures",
    "eos_token": "texts end with T5's </s>",
    "no_seed_provided": "fairseq sets it itself; --seed takes another number",
    "arch": "the checkpoint says what the model is",
}
_NOT_READ = "fairseq-generate does not read it: leave it out"


def check(known: argparse.Namespace, defaults: argparse.Namespace) -> None:
    """Raise UserError for the first option that would not do what it says.

    Args:
        known: of the options that fairseq's parser has before it knows the task, their values.
        defaults: of the same options.
    """
    if "buffer_size" in known:
        raise UserError(
            "fairseq-interactive translates lines of text, and what this task translates is "
            "videos: vt-caption VIDEO... --path CHECKPOINT does"
        )
    for name, value in vars(known).items():
        if name not in READ and value != getattr(defaults, name, None):
            raise UserError(f"{option_of(name)}: {REFUSED.get(name, _NOT_READ)}")
    for is_wrong, message in conflicts(known):
        if is_wrong:
            raise UserError(message)
    check_overrides(known.model_overrides, known.task)


def option_of(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"


def conflicts(known: argparse.Namespace) -> list[tuple[bool, str]]:
    """(whether it is so, what is wrong) for values that are out of range or do not go together."""
    least = {"beam": 1, "nbest": 1, "max_len_b": 1, "min_len": 0, "prefix_size": 0}
    least |= {"no_repeat_ngram_size": 0, "num_shards": 1, "shard_id": 0}
    values = {name: getattr(known, name) for name in least}
    top_k, top_p = known.sampling_topk, known.sampling_topp
    longest = max(known.min_len, known.prefix_size)
    return [
        (known.path is None, "--path is missing: the checkpoint to generate with"),
        (
            known.scoring not in SCORERS,
            f"--scoring {known.scoring}: expected one of {', '.join(SCORERS)} (vt-evaluate has "
            "more)",
        ),
        *(
            (values[name] < low, f"{option_of(name)} {values[name]}: expected at least {low}")
            for name, low in least.items()
        ),
        (
            known.nbest > known.beam,
            f"--nbest {known.nbest}: a beam of {known.beam} has no more texts than that; take "
            f"--beam {known.nbest}",
        ),
        (
            known.sampling and known.nbest != known.beam,
            f"--sampling draws --beam {known.beam} texts and shows --nbest {known.nbest} of them: "
            f"take --nbest {known.beam}, or --beam 1 for a single one",
        ),
        (not known.sampling and top_k != -1, "--sampling-topk goes with --sampling"),
        (not known.sampling and top_p != -1, "--sampling-topp goes with --sampling"),
        (
            top_k != -1 and top_p != -1,
            "--sampling-topk and --sampling-topp: one says what is drawn from, not both",
        ),
        (top_k != -1 and top_k < 1, f"--sampling-topk {top_k}: expected at least 1"),
        (
            top_p != -1 and not 0 < top_p <= 1,
            f"--sampling-topp {top_p}: expected a share in (0, 1]",
        ),
        (not known.temperature > 0, f"--temperature {known.temperature}: expected more than 0"),
        (
            longest > known.max_len_b,
            f"--max-len-b {known.max_len_b}: expected at least {longest}, the tokens that "
            "--min-len or --prefix-size ask for",
        ),
        (
            known.prefix_size > 0 and known.no_repeat_ngram_size > 0,
            "--no-repeat-ngram-size may forbid what --prefix-size begins with: take one of them",
        ),
        (
            known.shard_id >= known.num_shards,
            f"--shard-id {known.shard_id}: expected 0 to {known.num_shards - 1}, below "
            "--num-shards",
        ),
        (
            known.score_reference and known.results_path is not None,
            "--score-reference writes no predictions: leave --results-path out",
        ),
    ]


def check_overrides(text: str, task: str) -> None:
    """Raise UserError unless ``text`` is a dict of options of the task or the model."""
    where = f"--model-overrides {text:.60}"
    try:
        overrides = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise UserError(f"{where}: expected a dict such as {{'num_frames': 16}}") from error
    if not isinstance(overrides, dict):
        raise UserError(f"{where}: expected a dict, found a {type(overrides).__name__}")
    models = {kind for kind in MODEL_DATACLASS_REGISTRY.values() if is_ours(kind)}
    known: Mapping[Any, type] = {
        field.name: kind
        for kind in (*models, TASK_DATACLASS_REGISTRY[task])
        for field in fields(kind)
    }
    for name, value in overrides.items():
        if name not in known:
            raise UserError(f"{where}: neither the task nor the model has an option {name!r}")
        try:
            OmegaConf.structured(known[name])[name] = value
        except OmegaConfBaseException as error:
            raise UserError(f"{where}: {str(error).splitlines()[0]}") from error


def is_ours(kind: Any) -> bool:
    """Whether these are options of a model of this project."""
    return isinstance(kind, type) and issubclass(kind, VideoTranslateConfig)


def take_share(cfg: Any) -> None:
    """Say to fairseq which share of the rows this process generates for.

    That is ``--shard-id`` of ``--num-shards``, or what torchrun says. fairseq looks for both among
    the options of distributed training.
    """
    shards, shard = cfg.dataset.num_shards, cfg.dataset.shard_id
    if shards == 1 and "RANK" in os.environ:
        shards, shard = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
        if torch.cuda.is_available() and not cfg.common.cpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    cfg.distributed_training.distributed_world_size = shards
    cfg.distributed_training.distributed_rank = shard
