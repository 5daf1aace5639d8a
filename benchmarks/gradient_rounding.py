"""Gradients of trained T5 weights: what bf16 changes, and what as small a change does in fp32.

    python benchmarks/gradient_rounding.py T5_FOLDER [--batches 10]

``T5_FOLDER`` is Hugging Face's; ``python -m tests.trained_t5 T5_FOLDER SPIECE_MODEL`` writes one.
The batches are those of ``trained_t5.py``: two MiniWorld clips each, as a random video network sees
them. All weights are rounded to bf16, in fp32 too. Of each batch, the gradient of T5's weights (but
for the embeddings) against that in fp32, as the ratio of the norms and the cosine:

- in bf16;
- in fp32, with the video tokens that the network gives in bf16;
- in fp32, with the weights times 1 + 0.001 N(0, 1), less than bf16 rounds;
- in bf16, of transformers' T5 on the same embeddings, against that in fp32.

Writes results/gradient_rounding.json.
"""

import argparse
import copy
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import measuring
import torch
import torch.nn.functional as F
from torch import nn
from trained_t5 import TRAINING, command

from vt_fairseq.data.tokenizer import PAD
from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from fairseq import options, tasks, utils
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from transformers import T5ForConditionalGeneration

NOISE = 1e-3
Gradients = dict[str, torch.Tensor]


def prepared(folder: Path, t5: Path) -> tuple[nn.Module, Iterator[dict[str, Any]]]:
    """The model in fp32, its weights rounded to bf16, and the batches of its training."""
    start, data = folder / "init.pt", folder / "data"
    command(
        *("-m", "vt_fairseq.cli.init", "--t5", t5, "--video", "random", "--out", start),
        *("--arch", "video_translate_t5_small", "--t5-variant", "v1_1", "--video-network", "tiny"),
    )
    command(
        *("-m", "vt_fairseq.cli.prepare", "miniworld", "--size", "tiny", "--out", data),
        *("--vocabulary", t5 / "spiece.model"),
    )
    words = [str(data), "--user-dir", "user_dir", "--freeze-video", "all", *TRAINING.split()]
    cfg = convert_namespace_to_omegaconf(
        options.parse_args_and_arch(options.get_training_parser(), words)
    )
    utils.import_user_module(cfg.common)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    model.load_state_dict(torch.load(start, weights_only=False)["model"])
    task.load_dataset("train")
    batches = task.get_batch_iterator(task.datasets["train"], max_sentences=2, seed=1)
    return rounded(model.train()), batches.next_epoch_itr()


@torch.no_grad()
def rounded(model: nn.Module) -> nn.Module:
    """The model, its weights rounded to bf16."""
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    return model


@torch.no_grad()
def with_noise(model: nn.Module) -> nn.Module:
    """A copy whose trained weights all differ by about a thousandth."""
    torch.manual_seed(1)
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        if parameter.requires_grad:
            parameter.mul_(1 + NOISE * torch.randn_like(parameter))
    return other


def gradients(
    model: nn.Module, logits: Callable[[], torch.Tensor], sample: dict[str, Any]
) -> Gradients:
    """Of the batch's mean loss, by the parameters' names."""
    model.zero_grad()
    F.cross_entropy(logits().float().mT, sample["target"], ignore_index=PAD).backward()
    return {
        name: parameter.grad.float()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not any(x in name for x in ("embed", "shared", "video"))
    }


def ours(model: nn.Module, sample: dict[str, Any], tokens: torch.Tensor) -> Gradients:
    """With these video tokens (V, T, C)."""
    tokens = tokens.to(next(model.parameters()).dtype)
    with mock.patch.object(model.encoder.video, "forward", lambda video: tokens):
        return gradients(model, lambda: model(**sample["net_input"])[0], sample)


def theirs(
    model: T5ForConditionalGeneration, sample: dict[str, Any], states: torch.Tensor
) -> Gradients:
    """Of transformers' T5 with these embeddings (B, S, C) of the source."""
    given = {
        "inputs_embeds": states.to(model.dtype),
        "attention_mask": sample["net_input"]["src_tokens"].ne(PAD).long(),
        "decoder_input_ids": sample["net_input"]["prev_output_tokens"],
    }
    return gradients(model, lambda: model(**given).logits, sample)


def embeddings(model: nn.Module, sample: dict[str, Any]) -> torch.Tensor:
    """What the encoder's transformer gets of a batch: (B, S, C)."""
    seen = []
    hook = model.encoder.transformer.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    with torch.no_grad():
        model(**sample["net_input"])
    hook.remove()
    return seen[0]


def norm(found: Gradients) -> float:
    """Of all of them together."""
    return torch.stack([x.norm() for x in found.values()]).norm().item()


def against(found: Gradients, exact: Gradients) -> list[float]:
    """Ratio of the norms, and cosine."""
    product = sum((found[name] * exact[name]).sum().item() for name in exact)
    norms = norm(found), norm(exact)
    return [round(norms[0] / norms[1], 4), round(product / norms[0] / norms[1], 4)]


def measured(model: nn.Module, t5: Path, batches: Iterator[dict[str, Any]]) -> dict[str, dict]:
    """Of every batch the norm in fp32, and how the other gradients differ."""
    half, noisy = copy.deepcopy(model).bfloat16(), with_noise(model)
    peer = rounded(T5ForConditionalGeneration.from_pretrained(t5).eval())  # without dropout
    peer_half = copy.deepcopy(peer).bfloat16()
    rows: dict[str, list] = {}
    for sample in batches:
        with torch.no_grad():
            video = sample["net_input"]["video"]
            tokens, coarse = (m.encoder.video(video).float() for m in (model, half))
        exact, states = ours(model, sample, tokens), embeddings(model, sample)
        row = {
            "bf16": against(ours(half, sample, coarse), exact),
            "fp32, bf16's video tokens": against(ours(model, sample, coarse), exact),
            "fp32, other weights": against(ours(noisy, sample, tokens), exact),
            "transformers, bf16": against(
                theirs(peer_half, sample, states), theirs(peer, sample, states)
            ),
        }
        rows.setdefault("norm in fp32", []).append(round(norm(exact), 3))
        for way, pair in row.items():
            rows.setdefault(way, []).append(pair)
        print(rows["norm in fp32"][-1], row, flush=True)
    norms = rows.pop("norm in fp32")
    return {"fp32": {"norms": norms}} | {way: described(pairs) for way, pairs in rows.items()}


def described(pairs: list[list[float]]) -> dict[str, Any]:
    """All batches' ratios and cosines, and their extremes."""
    ratios, cosines = (list(values) for values in zip(*pairs, strict=True))
    return {
        "ratios of norms": ratios,
        "least ratio": min(ratios),
        "largest ratio": max(ratios),
        "cosines": cosines,
        "median cosine": round(statistics.median(cosines), 4),
        "least cosine": min(cosines),
    }


def main() -> int:
    """Measure, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("t5", type=Path, help="Hugging Face folder of a trained T5")
    parser.add_argument("--batches", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        model, batches = prepared(Path(name), args.t5)
        found = measured(model, args.t5, itertools.islice(batches, args.batches))
    # The result names no path of this machine.
    sys.argv[1:] = [args.t5.name, "--batches", str(args.batches)]
    return measuring.write_result("gradient_rounding", measuring.machine("transformers"), found)


if __name__ == "__main__":
    sys.exit(main())
