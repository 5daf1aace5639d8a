"""What a token of generation and a chunk of candidates launch on a GPU, counted on a CPU.

    python benchmarks/generation_counts.py [--rounds 3] [--result generation_counts]

t5-large's layers, narrow, in fp16; what counts as one operation, and where the host waits, is as in
``update_counts.py``. Of 8 sources with texts of exactly 20 tokens, the encoder left out:

- ``fairseq's steps``: its generator, with our decoder and cache.
- ``fixed shapes``: steps of the same operations on the same memory, launched one by one.
- ``captured``: the same, where one launch replays a step. Its operations are those around the
  steps, most of them once per batch; a GPU is not needed to count them.

fairseq's values that become lists are copies that no operation shows, so its waits are at least
these. Of candidates, chunks of 256 nodes for 8 clips. The CPU time of both ways on a CPU, with
T5-small, decides what is the default there. Writes results/NAME.json.
"""

import argparse
import contextlib
import cProfile
import pstats
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import measuring
import torch

torch.inference_mode = torch.no_grad  # in which a counter sees what operations are made of

import generation  # noqa: E402
import numpy as np  # noqa: E402
import update_counts  # noqa: E402
from torch.utils._python_dispatch import _disable_current_modes  # noqa: E402

from vt_fairseq.quiet_imports import quiet_imports  # noqa: E402

with quiet_imports():
    from torch import nn

    from vt_fairseq.candidates import top_k
    from vt_fairseq.candidates.prefix_tree import PrefixTree
    from vt_fairseq.data.tokenizer import PAD
    from vt_fairseq.models.sequence_generator import SharedSourceGenerator
    from vt_fairseq.models.step_graphs import StepGraphs
    from vt_fairseq.models.t5 import T5_DIMS, T5Decoder, init_t5_parameters

NARROW = replace(T5_DIMS["large"], d_model=32, d_kv=8, d_ff=64, num_heads=4, dropout=0.0)
CLIPS, SOURCE, TARGET, NODES = 8, 28, 20, 256
TOKENS = TARGET + 1  # and the end of the text
SEARCHES = {"greedy": 1, "beam 4": 4}


class Launches:
    """In the place of CUDA's graphs: runs a step as one launch, whose inside is not counted.

    Attributes:
        number: of launches.
        profile: that pauses meanwhile.
    """

    def __init__(self) -> None:
        self.number, self.profile = 0, None

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        """What counts as a launch of ``run``."""

        def launch() -> None:
            self.number += 1
            if self.profile is not None:
                self.profile.disable()
            with _disable_current_modes():
                run()
            if self.profile is not None:
                self.profile.enable()

        return launch


class Model(nn.Module):
    """A decoder, and what of a model the generator asks for."""

    encoder = None

    def __init__(self) -> None:
        super().__init__()
        table = nn.Embedding(NARROW.vocab_size, NARROW.d_model)
        self.decoder = T5Decoder(NARROW, table)
        init_t5_parameters(table, self.decoder, self.decoder, NARROW)

    def get_normalized_probs(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As fairseq's models have it."""
        return self.decoder.get_normalized_probs(*args, **kwargs)

    def max_decoder_positions(self) -> int:
        """As fairseq's models have it."""
        return self.decoder.max_positions()


def counted(
    function: Callable[[], Any], per: int, launches: Launches | None = None
) -> dict[str, float]:
    """Operations, waits and Python calls of a call, divided by ``per``."""
    launches = launches or Launches()
    function()
    launches.profile = profile = cProfile.Profile()
    launches.number = 0
    profile.runcall(function)
    number, launches.profile = launches.number, None
    counter = update_counts.Operations()
    with counter, copies_counted(counter.syncs):
        function()
    operations = sum(sum(found.values()) for found in counter.found.values())
    found = {
        "operations": round(operations / per, 1),
        "syncs": round(sum(counter.syncs.values()) / per, 2),
        "Python calls": round(pstats.Stats(profile).total_calls / per),
    }
    return found | ({"launches": number / per} if number else {})


@contextlib.contextmanager
def copies_counted(syncs: Counter[str]) -> Iterator[None]:
    """Count blocking copies between host and device, which on a CPU are no operations."""
    to, cpu = torch.Tensor.to, torch.Tensor.cpu

    def counted_to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        moves = any(isinstance(x, torch.device | str) for x in (*args, kwargs.get("device")))
        syncs["copy"] += moves and not kwargs.get("non_blocking", False)
        return to(tensor, *args, **kwargs)

    def counted_cpu(tensor: torch.Tensor) -> torch.Tensor:
        syncs["copy"] += 1
        return cpu(tensor)

    torch.Tensor.to, torch.Tensor.cpu = counted_to, counted_cpu
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.cpu = to, cpu


def encoder_output() -> dict[str, list[torch.Tensor]]:
    """Made up."""
    states = torch.randn(SOURCE, CLIPS, NARROW.d_model).half()
    return {
        "encoder_out": [states],
        "encoder_padding_mask": [torch.zeros(CLIPS, SOURCE, dtype=torch.bool)],
    }


def of_search(model: Model, beams: int) -> dict[str, dict[str, float]]:
    """Counts per token of each way."""
    ids = generation.dictionary()
    generator = SharedSourceGenerator([model], ids, beam_size=beams, max_len_b=TARGET)
    source = torch.full((CLIPS, SOURCE), 5)
    sample = {"net_input": {"src_tokens": source, "encoder_out": encoder_output()}}

    def run() -> list[list[int]]:
        found = generator.generate(None, sample, bos_token=PAD)
        return [row[0]["tokens"].tolist() for row in found]

    found, texts, launches = {}, [], Launches()
    for name in ("fairseq's steps", "fixed shapes", "captured"):
        generator.fixed_shapes = name != "fairseq's steps"
        model.decoder.graphs = StepGraphs(launches) if name == "captured" else None
        found[name] = counted(run, TOKENS, launches)
        texts.append(run())
    model.decoder.graphs = None
    if texts[1:] != texts[:1] * 2 or {len(text) for text in texts[0]} != {TOKENS}:
        raise SystemExit(f"beam {beams}: the ways write different texts, or shorter ones")
    return found


def of_candidates(model: Model) -> dict[str, dict[str, float]]:
    """Counts per chunk of each way."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 60, rng.integers(2, 9)).tolist() for _ in range(1000)]
    tree, launches = PrefixTree.build(texts), Launches()
    nodes = np.arange(NODES, 2 * NODES)
    found = {}
    for name in ("launched one by one", "captured"):
        if name == "captured":
            model.decoder.graphs = StepGraphs(launches)
        decoder = top_k.TreeDecoder(model.decoder, encoder_output())
        found[name] = counted(lambda decoder=decoder: decoder.edges([tree], [nodes]), 1, launches)
    model.decoder.graphs = None
    return found


def on_a_cpu(beams: int, rounds: int) -> dict[str, float]:
    """CPU time of fairseq's steps against that of fixed shapes."""
    _, models = generation.build()
    source = torch.randint(3, 32000, (CLIPS, SOURCE))
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}

    def way(fixed: bool) -> Callable[[], Any]:
        ids = generation.dictionary()
        options = {"beam_size": beams, "max_len_b": TARGET, "min_len": TARGET}
        generator = SharedSourceGenerator([models["ours"]], ids, **options)
        generator.fixed_shapes = fixed
        return lambda: generator.generate(None, sample, bos_token=PAD)

    spent = measuring.in_turn({"fairseq": way(False), "fixed": way(True)}, rounds)
    return measuring.ratio(spent["fairseq"], spent["fixed"])


def most(value: float, bar: float) -> dict[str, Any]:
    """A count with its bar."""
    return measuring.judged({"ratio": value, "least": value, "most": value}, at_most=bar)


@torch.no_grad()
def main() -> int:
    """Count, print, write the numbers down; 1 where a bar is not reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of CPU time")
    parser.add_argument("--result", default="generation_counts", help="name in results/")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured: dict[str, dict] = {
        f"{search}: CPU time, fairseq's steps against fixed shapes": on_a_cpu(beams, args.rounds)
        for search, beams in SEARCHES.items()
    }
    update_counts.look_like_a_gpu()
    torch.manual_seed(1)
    model = Model().half().eval()
    for search, beams in SEARCHES.items():
        for way, found in of_search(model, beams).items():
            measured[f"{search}, per token: {way}"] = found
            if way != "fairseq's steps":
                measured[f"{search}: waits per token, {way}"] = most(found["syncs"], 1)
        measured[f"{search}: launches per token, captured"] = most(found["launches"], 1)
    for way, found in of_candidates(model).items():
        measured[f"candidates, per chunk: {way}"] = found
        measured[f"candidates: waits per chunk, {way}"] = most(found["syncs"], 1)
    measured["candidates: launches per chunk, captured"] = most(found["launches"], 1)
    return measuring.write_result(args.result, measuring.machine("ve-fairseq"), measured)


if __name__ == "__main__":
    sys.exit(main())
