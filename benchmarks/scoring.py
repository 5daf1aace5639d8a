"""Candidate scoring against the usual loop, which runs the encoder again for each candidate.

    python benchmarks/scoring.py [--rounds 7] [--out benchmarks/scoring.json]

T5-small, random weights, fp32, one thread, a source of 28 tokens; CPU seconds, the two ways taken
in turn, so that what else the machine does meets both. The loop takes 100 candidates at once, pads
them and takes the logarithm of the softmax over the vocabulary. Results are compared first. The
candidates are drawn: 100 captions of 12 tokens, the same with four tokens in common, and 10 verbs x
100 nouns with EPIC-Kitchens' lengths; 125 x 352 are scored once, for their time and memory.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F

from vt_fairseq.quiet import quiet_imports

with quiet_imports():
    from vt_fairseq.data.text import EOS, PAD
    from vt_fairseq.models.t5 import T5_DIMS, T5Decoder, T5Encoder, init_t5_parameters
    from vt_fairseq.scoring.candidates import score_candidates
    from vt_fairseq.scoring.prefix_tree import PrefixTree
    from vt_fairseq.scoring.top_k import Bounds, top_candidates

DIMS = replace(T5_DIMS["small"], dropout=0.0)
SOURCE, AT_ONCE, RETRIEVAL_CLIPS = 28, 100, 8
BARS = {"captions": 2.0, "captions, 4 tokens shared": 2.8, "10 x 100 labels": 9.0, "retrieval": 2.0}
OF_OPERATIONS = 0.75  # share of the ratio of operations that has to be reached
Candidates = list[list[int]]


class Model:
    """T5-small between embeddings and scores; what stands before it is the same for both ways."""

    def __init__(self):
        torch.manual_seed(0)
        table = torch.nn.Embedding(DIMS.vocab_size, DIMS.d_model)
        self.encoder, self.decoder = T5Encoder(DIMS).eval(), T5Decoder(DIMS, table).eval()
        init_t5_parameters(table, self.encoder, self.decoder, DIMS)
        self.sources = table(torch.randint(3, 32000, (RETRIEVAL_CLIPS, SOURCE)))

    def encode(self, sources: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """(B, S, C) embeddings -> fairseq's encoder output."""
        padding = torch.zeros(sources.shape[:2], dtype=torch.bool)
        states = self.encoder(sources, padding)
        return {"encoder_out": [states.transpose(0, 1)], "encoder_padding_mask": [padding]}


def loop(model: Model, candidates: Candidates, clips: int) -> np.ndarray:
    """(clips, K) by the encoder with every candidate."""
    found = [
        _loop_batch(model, source.expand(len(part), -1, -1), part)
        for source in model.sources[:clips]
        for part in (candidates[i : i + AT_ONCE] for i in range(0, len(candidates), AT_ONCE))
    ]
    return np.concatenate(found).reshape(clips, -1)


def _loop_batch(model: Model, sources: torch.Tensor, candidates: Candidates) -> np.ndarray:
    longest = 1 + max(map(len, candidates))
    target = torch.tensor([[*ids, EOS, *[PAD] * (longest - 1 - len(ids))] for ids in candidates])
    logits, _ = model.decoder(F.pad(target[:, :-1], (1, 0)), encoder_out=model.encode(sources))
    found = logits.log_softmax(-1).gather(2, target.unsqueeze(2)).squeeze(2)
    return found.masked_fill(target.eq(PAD), 0.0).sum(1).numpy()


def tree(model: Model, candidates: Candidates, clips: int) -> np.ndarray:
    """(clips, K) by the prefix tree, which is built anew."""
    joined = SimpleNamespace(decoder=model.decoder)
    encoded = model.encode(model.sources[:clips])
    return np.stack(score_candidates(joined, encoded, [PrefixTree.build(candidates)]))


def operations(encoded: int, sources: int, decoded: int) -> float:
    """Multiply-adds in linear layers: positions encoded, read by the decoder, and decoded."""
    c, layers = DIMS.d_model, DIMS.num_layers
    forward = 2 * c * DIMS.d_ff
    return (
        encoded * layers * (4 * c * c + forward)
        + sources * layers * 2 * c * c
        + decoded * (layers * (6 * c * c + forward) + c * DIMS.vocab_size)
    )


def ratio_of_operations(candidates: Candidates, clips: int) -> float:
    """The loop's multiply-adds divided by the tree's."""
    parts = [candidates[i : i + AT_ONCE] for i in range(0, len(candidates), AT_ONCE)]
    padded = sum(len(part) * (1 + max(map(len, part))) for part in parts)
    encoded = len(candidates) * SOURCE
    nodes = PrefixTree.build(candidates).num_inner
    return operations(encoded, encoded, padded) / operations(SOURCE, SOURCE, nodes)


def cpu_seconds(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """CPU time of a call and its result."""
    began = time.process_time()
    found = function()
    return time.process_time() - began, found


def compare(model: Model, candidates: Candidates, clips: int, rounds: int) -> dict:
    """Both ways in turn; ratios are of a round's two times."""
    seconds: dict[str, list[float]] = {"loop": [], "tree": []}
    difference = 0.0
    for _ in range(rounds):
        took, slow = cpu_seconds(lambda: loop(model, candidates, clips))
        seconds["loop"].append(took)
        took, fast = cpu_seconds(lambda: tree(model, candidates, clips))
        seconds["tree"].append(took)
        difference = max(difference, float(np.abs(slow - fast).max()))
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    pairs = len(candidates) * clips
    return {
        "nodes": PrefixTree.build(candidates).num_inner,
        "tokens": sum(len(ids) + 1 for ids in candidates),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_lowest": round(min(ratios), 2),
        "ratio_highest": round(max(ratios), 2),
        "ratio_of_best_times": round(min(seconds["loop"]) / min(seconds["tree"]), 2),
        "ratio_of_operations": round(ratio_of_operations(candidates, clips), 2),
        "pairs_a_second": round(pairs / min(seconds["tree"]), 1),
        "largest_difference": difference,
    }


def drawn(rng: np.random.Generator, lengths: Sequence[int]) -> Candidates:
    """Texts of the given numbers of tokens."""
    return [rng.integers(3, 32000, size=length).tolist() for length in lengths]


def labels(rng: np.random.Generator, verbs: int, nouns: int) -> Candidates:
    """Verb-noun labels; lengths in tokens as EPIC-Kitchens' classes have them."""
    verb_lengths = rng.choice([1, 2, 3], size=verbs, p=[0.3, 0.4, 0.3])
    noun_lengths = rng.choice([1, 2, 3, 4], size=nouns, p=[0.46, 0.36, 0.14, 0.04])
    return [v + n for v in drawn(rng, verb_lengths) for n in drawn(rng, noun_lengths)]


def every_label(model: Model, rng: np.random.Generator) -> dict:
    """All of EPIC-Kitchens' 44,000 verb-noun labels in one call, and their best five."""
    built = PrefixTree.build(labels(rng, 125, 352))
    joined = SimpleNamespace(decoder=model.decoder)
    encoded = model.encode(model.sources[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took, found = cpu_seconds(lambda: score_candidates(joined, encoded, [built])[0])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    top = top_candidates(joined, encoded, Bounds.of(built, False), 5)[0]
    return {
        "candidates": len(built.leaves),
        "nodes": built.num_inner,
        "tokens": int(built.lengths.sum()),
        "cpu_seconds": round(took, 1),
        "memory_mb": round((after - before) / 1024),
        "best_five_equal": bool(
            np.allclose(np.sort(found)[::-1][:5], top.scores, rtol=0, atol=1e-4)
        ),
    }


def main() -> None:
    """Measure, print a table, write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng, model = np.random.default_rng(1), Model()
    shared = drawn(rng, [4])[0]
    cases = {
        "captions": (drawn(rng, [12] * 100), 1),
        "captions, 4 tokens shared": ([shared + ids for ids in drawn(rng, [8] * 100)], 1),
        "10 x 100 labels": (labels(rng, 10, 100), 1),
        "retrieval": (drawn(rng, [12] * 100), RETRIEVAL_CLIPS),
    }
    with torch.inference_mode():
        results: dict = {"every label": every_label(model, rng)}  # first: memory only grows
        print(json.dumps(results["every label"]))
        print(f"{'':28}{'ratio':>14}{'operations':>12}{'bar':>6}{'equal to':>10}")
        for name, (candidates, clips) in cases.items():
            found = compare(model, candidates, clips, args.rounds)
            bar = max(BARS[name], OF_OPERATIONS * found["ratio_of_operations"])
            results[name] = found | {"bar": round(bar, 2), "reached": found["ratio"] >= bar}
            spread = f"{found['ratio']} ({found['ratio_lowest']}-{found['ratio_highest']})"
            print(
                f"{name:28}{spread:>14}{found['ratio_of_operations']:12}{bar:6.2f}"
                f"{found['largest_difference']:10.1e}",
                flush=True,
            )
    machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    date = time.strftime("%Y-%m-%d")
    args.out.write_text(json.dumps(machine | {"date": date} | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
