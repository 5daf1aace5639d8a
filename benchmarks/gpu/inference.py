"""Generation and candidate scoring on a GPU: t5-large and R(2+1)D-34 with random weights.

    python benchmarks/gpu/inference.py DATA [--arch ARCH]

DATA gives the vocabulary. Prints one JSON object: how many clips per second the video network
reads, how many texts and tokens per second greedy and beam search write, and how many candidates
per second are scored: captions of many clips, and EPIC-Kitchens' 44,000 labels of one clip.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fairseq.dataclass.configs import GenerationConfig

import vt_fairseq.plugin  # noqa: F401
from vt_fairseq.candidates.likelihood import score_candidates
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.models.architectures import architecture, build_model
from vt_fairseq.models.step_graphs import CudaGraphs, StepGraphs
from vt_fairseq.task import VideoTranslateTask, VideoTranslateTaskConfig

CLIPS, FRAMES, SIZE, SOURCE, TARGET = 32, 32, 112, 28, 20
CAPTIONS, VERBS, NOUNS = 1000, 125, 352


def seconds(function: Callable[[], Any]) -> float:
    """Time on the clock of a call, the second one."""
    for _ in range(2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        torch.cuda.synchronize()
        last = time.perf_counter() - began
    return last


def ids(rng: random.Random, length: int) -> list[int]:
    """A text of so many tokens."""
    return [rng.randrange(5, 300) for _ in range(length)]


class Bench:
    """The model on the GPU, and 32 clips and sources."""

    def __init__(self, data: Path, arch: str, dtype: torch.dtype):
        tokenizer = Tokenizer.from_file(data / "spiece.model")
        self.task = VideoTranslateTask(VideoTranslateTaskConfig(), None, tokenizer, {})
        config = replace(architecture(arch), dropout=0.0)
        with torch.device("cuda"):
            self.model = build_model(config, tokenizer.table_size, tokenizer.video)
        self.model = self.model.to(dtype).eval()
        video = self.model.encoder.video
        frames = torch.randint(0, 256, (CLIPS, FRAMES, SIZE, SIZE, 3), dtype=torch.uint8)
        self.frames = frames.cuda()
        source = torch.randint(5, 300, (CLIPS, SOURCE))
        source[:, 2 : 2 + video.num_tokens(FRAMES)] = tokenizer.video
        self.source = source.cuda()
        self.tokens = torch.cat([video(part) for part in self.frames.split(8)])

    def inputs(self, clips: int) -> dict[str, torch.Tensor]:
        """What the encoder takes for the first ``clips``."""
        lengths = torch.full((clips,), SOURCE, device="cuda")
        return {
            "src_tokens": self.source[:clips],
            "src_lengths": lengths,
            "video_tokens": self.tokens[:clips],
        }

    def video(self) -> dict[str, float]:
        """Clips per second, eight at a time."""
        video = self.model.encoder.video
        taken = seconds(lambda: [video(part) for part in self.frames.split(8)])
        return {"video_network_clips_per_second": round(CLIPS / taken, 1)}

    def generation(self, beam: int, way: str) -> dict[str, float]:
        """Texts of exactly 20 tokens for 32 clips, the video network left out.

        ``way`` is "fairseq", "fixed" (steps of fixed shapes) or "captured".
        """
        config = GenerationConfig(beam=beam, max_len_b=TARGET, min_len=TARGET)
        generator = self.task.build_generator([self.model], config)
        generator.fixed_shapes = way != "fairseq"
        graphs = StepGraphs(CudaGraphs(torch.device("cuda"))) if way == "captured" else None
        self.model.decoder.graphs = graphs
        missing = torch.zeros(CLIPS, dtype=torch.bool)
        sample = {"net_input": self.inputs(CLIPS), "missing": missing}
        taken = seconds(lambda: self.task.generate(generator, sample))
        self.model.decoder.graphs = None
        name = f"{way}_greedy" if beam == 1 else f"{way}_beam_{beam}"
        return {
            f"{name}_texts_per_second": round(CLIPS / taken, 1),
            f"{name}_tokens_per_second": round(CLIPS * TARGET / taken),
            f"{name}_ms_per_token": round(1e3 * taken / TARGET, 2),
        }

    def scoring(self) -> dict[str, float]:
        """Candidates per second: 1,000 captions of 8 clips, and all verb-noun pairs of one."""
        rng = random.Random(0)
        captions = [ids(rng, rng.randrange(6, 16)) for _ in range(CAPTIONS)]
        verbs = [ids(rng, rng.randrange(1, 4)) for _ in range(VERBS)]
        nouns = [ids(rng, rng.randrange(1, 5)) for _ in range(NOUNS)]
        pairs = [verb + noun for verb in verbs for noun in nouns]
        found = {}
        for name, texts, clips in (("captions", captions, 8), ("epic_labels", pairs, 1)):
            tree = PrefixTree.build(texts)

            def call(tree=tree, clips=clips) -> None:
                encoded = self.model.encoder(**self.inputs(clips))
                score_candidates(self.model, encoded, [tree], 8192)

            for way in ("launched", "captured"):
                graphs = StepGraphs(CudaGraphs(torch.device("cuda"))) if way == "captured" else None
                self.model.decoder.graphs = graphs
                taken = seconds(call)
                found[f"{name}_{way}_pairs_per_second"] = round(len(texts) * clips / taken)
        self.model.decoder.graphs = None
        return found


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--arch", default="video_translate_t5_large")
    arguments.add_argument("--dtype", default="bf16", choices=["fp32", "fp16", "bf16"])
    arguments.add_argument("--wait", action="store_true", help="for a line on stdin")
    args = arguments.parse_args()
    if args.wait:
        sys.stdin.readline()
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[args.dtype]
    bench = Bench(args.data, args.arch, dtype)
    result = bench.video()
    for beam in (1, 4, 5):
        for way in ("fairseq", "fixed", "captured"):
            result |= bench.generation(beam, way)
    result |= bench.scoring()
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
