"""Does a T5 that was trained on inputs ending in </s> miss it at the end of our sources?

    python benchmarks/source_end.py T5_FOLDER MSRVTT_CAPTIONS.json [--pairs 100]

Of each of the first clips of MSR-VTT's captions, the first caption is the source and the second,
another person's words for the same clip, the target. Mean log-likelihood of a target's token under
trained T5 weights, by what the source looks like, without fine-tuning; and the mean and standard
error of the difference that </s> makes. Writes results/source_end.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measuring
import torch

from vt_fairseq import VideoTranslate
from vt_fairseq.data.tokenizer import EOS, PAD, Tokenizer

MODULE = [sys.executable, "-m", "vt_fairseq.cli.init"]


def sources(t: Tokenizer, text: str) -> dict[str, list[int]]:
    """The source of one text in each layout, without </s>."""
    ids, prompt = t.encode(text), t.encode("caption :")
    return {
        "T5's own: text": ids,
        "prompt text": [*prompt, *ids],
        "[CLS] prompt text [SEP]": [t.cls, *prompt, *ids, t.sep],
        "[CLS] prompt [SEP] text": [t.cls, *prompt, t.sep, *ids],
    }


@torch.inference_mode()
def mean_log_likelihood(model: torch.nn.Module, source: list[int], target: list[int]) -> float:
    """Of a target's token, its end included."""
    wanted = torch.tensor([[*target, EOS]])
    before = torch.cat((torch.tensor([[PAD]]), wanted[:, :-1]), dim=1)
    logits, _ = model(torch.tensor([source]), before)
    return logits.log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).mean().item()


def main() -> None:
    """Read, measure, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("t5", type=Path, help="Hugging Face folder of a trained T5")
    parser.add_argument("captions", type=Path, help="msrvtt_caption_test.json")
    parser.add_argument("--pairs", type=int, default=100)
    args = parser.parse_args()
    clips = json.loads(args.captions.read_text(encoding="utf-8"))[: args.pairs]
    with tempfile.TemporaryDirectory() as folder:
        made = [*MODULE, "--t5", args.t5, "--vocabulary", args.t5 / "spiece.model"]
        made += ["--video", "random", "--arch", "from-t5", "--out", f"{folder}/init.pt"]
        subprocess.run(list(map(str, made)), check=True, stdout=subprocess.DEVNULL)
        loaded = VideoTranslate.from_pretrained(f"{folder}/init.pt", device="cpu").loaded
    tokenizer = loaded.task.tokenizer
    found: dict[str, list[tuple[float, float]]] = {}
    for first, second, *_ in (clip["caption"] for clip in clips):
        target = tokenizer.encode(second)
        for name, source in sources(tokenizer, first).items():
            both = (mean_log_likelihood(loaded.model, s, target) for s in (source, [*source, EOS]))
            without, with_end = both
            found.setdefault(name, []).append((without, with_end))
    measured = {name: summary(pairs) for name, pairs in found.items()}
    sys.argv[1:3] = [args.t5.name, args.captions.name]  # the result names no path of this machine
    measuring.write_result("source_end", measuring.machine("sentencepiece"), measured)


def summary(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Means, and the difference with its standard error and how often it is positive."""
    gains = [with_end - without for without, with_end in pairs]
    return {
        "without </s>": round(statistics.mean(p[0] for p in pairs), 3),
        "with </s>": round(statistics.mean(p[1] for p in pairs), 3),
        "gain": round(statistics.mean(gains), 3),
        "standard error": round(statistics.stdev(gains) / len(gains) ** 0.5, 3),
        "better with it, per cent": round(100 * statistics.mean(g > 0 for g in gains)),
    }


if __name__ == "__main__":
    main()
