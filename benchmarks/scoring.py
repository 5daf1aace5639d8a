"""Candidate scoring against the usual loop, which runs the encoder again for each candidate.

    python benchmarks/scoring.py [--rounds 5]

T5-small, random weights, fp32, a source of 28 tokens. CPU time, one thread, in turn. The loop takes
100 candidates at once, pads them and takes the logarithm of the softmax over the vocabulary. That
both give the same scores is checked first. The candidates are drawn: 100 captions of 12 tokens, the
same with four tokens in common, 10 verbs x 100 nouns with EPIC-Kitchens' lengths, 50 captions for
each of 4 clips; 125 x 352 labels are scored once, for their time and memory. Writes
results/scoring.json.
"""

import argparse
import resource
import sys
from collections.abc import Sequence
from dataclasses import replace

import measuring
import numpy as np
import torch
import torch.nn.functional as F

from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from vt_fairseq.candidates.likelihood import score_candidates
    from vt_fairseq.candidates.prefix_tree import PrefixTree
    from vt_fairseq.candidates.top_k import Bounds, top_candidates
    from vt_fairseq.data.tokenizer import EOS, PAD
    from vt_fairseq.models.t5 import T5_DIMS, T5Decoder, T5Encoder, init_t5_parameters

DIMS = replace(T5_DIMS["small"], dropout=0.0)
SOURCE, AT_ONCE, CLIPS = 28, 100, 4
OF_OPERATIONS = 0.75  # share of the ratio of operations that has to be reached
EQUAL = 1e-4  # largest difference between two scores of about -125
MEMORY = 256  # MB, for 44,000 labels whose logits have 10,000
Candidates = list[list[int]]


class Model:
    """T5-small between embeddings and scores; what stands before it is the same for both ways."""

    def __init__(self):
        torch.manual_seed(0)
        table = torch.nn.Embedding(DIMS.vocab_size, DIMS.d_model)
        self.encoder, self.decoder = T5Encoder(DIMS).eval(), T5Decoder(DIMS, table).eval()
        init_t5_parameters(table, self.encoder, self.decoder, DIMS)
        self.sources = table(torch.randint(3, 32000, (CLIPS, SOURCE)))

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
    encoded = model.encode(model.sources[:clips])
    return np.stack(score_candidates(model, encoded, [PrefixTree.build(candidates)]))


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


def drawn(rng: np.random.Generator, lengths: Sequence[int]) -> Candidates:
    """Texts of the given numbers of tokens."""
    return [rng.integers(3, 32000, size=length).tolist() for length in lengths]


def labels(rng: np.random.Generator, verbs: int, nouns: int) -> Candidates:
    """Verb-noun labels; lengths in tokens as EPIC-Kitchens' classes have them."""
    verb_lengths = rng.choice([1, 2, 3], size=verbs, p=[0.3, 0.4, 0.3])
    noun_lengths = rng.choice([1, 2, 3, 4], size=nouns, p=[0.46, 0.36, 0.14, 0.04])
    return [v + n for v in drawn(rng, verb_lengths) for n in drawn(rng, noun_lengths)]


def compare(
    model: Model, candidates: Candidates, clips: int, rounds: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The ratio of the loop's time to the tree's, and what goes with it; ends the run where their
    scores differ."""
    difference = float(
        np.abs(loop(model, candidates, clips) - tree(model, candidates, clips)).max()
    )
    if difference > EQUAL:
        raise SystemExit(f"the two ways' scores differ by {difference}, expected at most {EQUAL}")
    ways = {
        "loop": lambda: loop(model, candidates, clips),
        "tree": lambda: tree(model, candidates, clips),
    }
    spent = measuring.in_turn(ways, rounds)
    pairs = len(candidates) * clips
    return measuring.ratio(spent["loop"], spent["tree"]), {
        "nodes": PrefixTree.build(candidates).num_inner,
        "tokens": sum(len(ids) + 1 for ids in candidates),
        "ratio of operations": round(ratio_of_operations(candidates, clips), 2),
        "largest difference": difference,
        **{f"pairs per second, {way}": round(pairs / min(spent[way]), 1) for way in ways},
    }


def every_label(model: Model, rng: np.random.Generator) -> dict[str, float]:
    """All of EPIC-Kitchens' 44,000 verb-noun labels in one call; their best five by themselves."""
    built = PrefixTree.build(labels(rng, 125, 352))
    encoded = model.encode(model.sources[:1])
    scores: list[np.ndarray] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = measuring.cpu_seconds(lambda: scores.extend(score_candidates(model, encoded, [built])))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    top = top_candidates(model, encoded, Bounds.of(built, False), 5)[0]
    if not np.allclose(np.sort(scores[0])[::-1][:5], top.scores, rtol=0, atol=EQUAL):
        raise SystemExit("the best five found by themselves are not the best five of all")
    added = round((after - before) / 1024)
    return {
        **{"ratio": added, "least": added, "most": added},
        "candidates": len(built.leaves),
        "nodes": built.num_inner,
        "tokens": int(built.lengths.sum()),
        "CPU s": round(spent, 1),
    }


def main() -> int:
    """Measure, print, write the numbers down; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng, model = np.random.default_rng(1), Model()
    shared = drawn(rng, [4])[0]
    cases = {  # candidates, clips, least ratio of CPU times
        "100 captions, nothing shared": (drawn(rng, [12] * 100), 1, 2.0),
        "100 captions, 4 tokens shared": ([shared + ids for ids in drawn(rng, [8] * 100)], 1, 2.8),
        "1,000 verb-noun labels": (labels(rng, 10, 100), 1, 9.0),
        f"retrieval, {CLIPS} clips x 50 captions": (drawn(rng, [12] * 50), CLIPS, 2.0),
    }
    measured: dict[str, dict] = {}
    with torch.inference_mode():
        found = every_label(model, rng)  # first: the most memory ever used only grows
        measured["44,000 labels in one call: MB added"] = measuring.judged(found, at_most=MEMORY)
        for name, (candidates, clips, bar) in cases.items():
            found, about = compare(model, candidates, clips, args.rounds)
            measured[name] = measuring.judged(found, at_least=bar) | about
            share = {
                key: round(value / about["ratio of operations"], 3) for key, value in found.items()
            }
            measured[f"{name}: share of the ratio of operations"] = measuring.judged(
                share, at_least=OF_OPERATIONS
            )
    return measuring.write_result("scoring", measuring.machine(), measured)


if __name__ == "__main__":
    sys.exit(main())
