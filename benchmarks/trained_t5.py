"""Trained T5 weights in half precision: their values' real ranges, texts, losses, and training.

    python benchmarks/trained_t5.py T5_FOLDER SENTENCES [--rows 100]
    python benchmarks/trained_t5.py T5_FOLDER [--updates 50] [--seed 1 2 3] [--in fp16 bf16]

``T5_FOLDER`` is Hugging Face's; ``python -m tests.trained_t5 T5_FOLDER SPIECE_MODEL`` writes one.
``SENTENCES`` is a text file, one source per line. With it is measured, on a CPU:

- the largest magnitude, layer by layer, of what a plain fp16 T5 would have in fp16, in fp32;
- in fp16 and bf16, teacher-forced on what fp32 writes: the loss against fp32's, and how many of the
  texts that it writes itself are fp32's.

Without it, ``fairseq-train`` under DeepSpeed's engine (ZeRO-1) trains T5 on MiniWorld's videos, as
a random, frozen video network sees them, without dropout: the losses of all updates against fp32's,
and updates skipped for infinite gradients. fairseq calls ``.cuda()`` then; here that does nothing.
The same in fp32 from weights that differ by a thousandth, half of bf16's rounding: two such runs
differ, too. ``--seed`` takes several orders of the clips, whose mean ratio has an interval; what is
done is written after each.

Ends with exit code 1 where a value is not finite or a loss (of training: its mean ratio over the
seeds) not within 1 % of fp32's. Writes results/trained_t5.json or trained_t5_training.json.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import measuring
import torch
import torch.nn.functional as F
from text_noise import summary
from torch import nn

from vt_fairseq import VideoTranslate
from vt_fairseq.data.tokenizer import EOS, PAD
from vt_fairseq.models.sequence_generator import SharedSourceGenerator
from vt_fairseq.models.t5 import Attention, FeedForward

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
LONGEST = 24  # tokens of a text
WITHIN = 0.01  # of fp32's loss
NEARBY = "fp32 from other weights"
NOISE = 1e-3  # standard deviation of their difference, relative to each weight
TRAINING = (
    "--task video_translate --criterion video_translate --arch video_translate_t5_small "
    "--t5-variant v1_1 --video-network tiny --dropout 0 --num-frames 8 --frame-size 32 "
    "--freeze-video all "
    "--optimizer deepspeed_adam --adam-backend torch --lr 1e-4 --clip-norm 1 --batch-size 2 --cpu "
    "--disable-validation --no-save --no-progress-bar --log-format simple --log-interval 1"
)
CHILD = """
import sys
import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from fairseq_cli.train import cli_main
from vt_fairseq.training import trainer
CPU_Accelerator.is_fp16_supported = lambda self: True
trainer.refuse_fp16_on_a_cpu = lambda cfg, device: None
torch.Tensor.cuda = lambda self, *args, **kwargs: self
cli_main()
"""


def command(*words: str | Path) -> str:
    """What a Python process printed that had to succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=measuring.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout[-3000:])
    return done.stdout


class Ranges:
    """Largest magnitudes of a model's values, by place, one per layer."""

    def __init__(self, model: nn.Module):
        self.largest: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for stack, layers in (
            ("encoder", model.encoder.transformer.layers),
            ("decoder", model.decoder.layers),
        ):
            for number, layer in enumerate(layers):
                self.watch(layer, partial(self.see, f"{stack} residual stream", number))
                for module in layer.modules():
                    if isinstance(module, Attention):
                        self.watch(module.o, partial(self.see, f"{stack} attention output", number))
                        module.register_forward_pre_hook(
                            partial(self.see_products, f"{stack} queries x keys", number)
                        )
                    elif isinstance(module, FeedForward):
                        self.watch(
                            module.wo, partial(self.see, f"{stack} feed-forward output", number)
                        )
                        module.wo.register_forward_pre_hook(
                            partial(self.see_inputs, f"{stack} feed-forward inside", number)
                        )

    def watch(self, module: nn.Module, see: Any) -> None:
        """Call ``see`` with every output of ``module``."""
        module.register_forward_hook(lambda module, inputs, output: see(output))

    def see(self, place: str, layer: int, values: torch.Tensor) -> None:
        """Note the largest magnitude of ``values``."""
        found = self.largest[place]
        found[layer] = max(found[layer], values.abs().max().item())

    def see_inputs(self, place: str, layer: int, module: nn.Module, inputs: tuple) -> None:
        """The same of a module's input."""
        self.see(place, layer, inputs[0])

    def see_products(self, place: str, layer: int, module: nn.Module, inputs: tuple) -> None:
        """The same of the products of attention's queries and keys."""
        self.see(place, layer, inputs[0] @ inputs[1].mT)

    def table(self) -> dict[str, dict]:
        """{place: its layers' magnitudes, and the largest as a share of what fp16 holds}."""
        most = torch.finfo(torch.float16).max
        return {
            place: {
                "largest by layer": [float(f"{layers[n]:.4g}") for n in sorted(layers)],
                "of fp16's largest number, per cent": round(100 * max(layers.values()) / most, 3),
            }
            for place, layers in sorted(self.largest.items())
        }


def padded(rows: list[list[int]]) -> torch.Tensor:
    """(B, L) ids, right-padded."""
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PAD)


def texts(model: nn.Module, dictionary: Any, source: torch.Tensor) -> list[list[int]]:
    """Greedily decoded ids with </s>."""
    generator = SharedSourceGenerator([model], dictionary, beam_size=1, max_len_b=LONGEST)
    sample = {"net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)}}
    return [row[0]["tokens"].tolist() for row in generator.generate([model], sample, bos_token=PAD)]


@torch.inference_mode()
def row_losses(model: nn.Module, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(B,) mean losses of the target's tokens; SystemExit where a logit is not finite."""
    logits, _ = model(source, F.pad(target[:, :-1], (1, 0), value=PAD))
    if not logits.isfinite().all():
        raise SystemExit("logits are not finite")
    losses = F.cross_entropy(logits.mT, target, ignore_index=PAD, reduction="none")
    return losses.sum(1) / target.ne(PAD).sum(1)


def inference(checkpoint: Path, sentences: list[str]) -> dict[str, dict]:
    """Ranges in fp32; losses and texts in half precision."""
    loaded = VideoTranslate.from_pretrained(str(checkpoint), device="cpu").loaded
    model, tokenizer = loaded.model, loaded.task.tokenizer
    source = padded([[*tokenizer.encode(sentence), EOS] for sentence in sentences])
    written = texts(model, loaded.task.dictionary, source)
    # What follows is teacher-forced on the next sentence: text that the model finds unlikely.
    target = padded([[*tokenizer.encode(s), EOS] for s in [*sentences[1:], sentences[0]]])
    ranges = Ranges(model)
    exact = [row_losses(model, source, t) for t in (padded(written), target)]
    found = ranges.table()
    for name, dtype in DTYPES.items():
        half = VideoTranslate.from_pretrained(str(checkpoint), device="cpu").loaded.model.to(dtype)
        losses = [row_losses(half, source, t) for t in (padded(written), target)]
        own = texts(half, loaded.task.dictionary, source)
        found[f"texts in {name}"] = {
            "equal to fp32's": sum(a == b for a, b in zip(own, written, strict=True)),
            "of": len(written),
            "loss of fp32's texts": described(losses[0], exact[0]),
            "loss of other sentences": described(losses[1], exact[1]),
        }
    return found


def described(losses: torch.Tensor, exact: torch.Tensor) -> dict[str, float | bool]:
    """Means in fp32 and now, and their ratio."""
    ratio = (losses.mean() / exact.mean()).item()
    return {
        "fp32": round(exact.mean().item(), 4),
        "here": round(losses.mean().item(), 4),
        "ratio": round(ratio, 5),
    }


def trained(
    data: Path, checkpoint: Path, precision: str, updates: int, *more: str
) -> dict[str, Any]:
    """Losses, in bits per token, and norms of ``updates`` updates, and how many were skipped."""
    options = [*TRAINING.split(), "--max-update", str(updates), *more]
    if precision != "fp32":
        options.append(f"--{precision}")
    printed = command(
        *("-c", CHILD, data, "--user-dir", "user_dir", "--finetune-from-model", checkpoint),
        *options,
    )
    lines = re.findall(r"train_inner .*? loss=([\w.]+).*?gnorm=([\w.]+)", printed)
    if len(lines) != updates:
        raise SystemExit(f"{len(lines)} updates instead of {updates}: {printed[-3000:]}")
    return {
        "losses": [float(loss) for loss, _ in lines],
        "norms": [float(norm) for _, norm in lines],
        "skipped": len(re.findall("overflow detected|OVERFLOW", printed)),
    }


def nearby(checkpoint: Path) -> Path:
    """A copy of a checkpoint whose weights all differ by about a thousandth."""
    generator = torch.Generator().manual_seed(1)
    state = torch.load(checkpoint, weights_only=True)
    for weight in state["model"].values():
        if weight.is_floating_point():
            weight *= 1 + NOISE * torch.randn(weight.shape, generator=generator)
    path = checkpoint.with_name("nearby.pt")
    torch.save(state, path)
    return path


def training(
    folder: Path, t5: Path, checkpoint: Path, updates: int, seeds: list[str], dtypes: list[str]
) -> Iterator[dict[str, dict]]:
    """Losses of fine-tuning in fp32 and others, and in fp32 from nearly the same weights.

    After each seed, those of all until then.
    """
    data = folder / "data"
    command(
        *("-m", "vt_fairseq.cli.prepare", "miniworld", "--size", "tiny", "--out", data),
        *("--vocabulary", t5 / "spiece.model"),
    )
    starts = {name: (name, checkpoint) for name in ("fp32", *dtypes)}
    starts[NEARBY] = "fp32", nearby(checkpoint)
    found: dict[str, dict] = {}
    ratios: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        runs: dict[str, dict[str, Any]] = {}
        for name, (precision, start) in starts.items():
            runs[name] = trained(data, start, precision, updates, "--seed", seed)
            found[f"{name}, seed {seed}"] = one = compared(runs[name], runs["fp32"])
            ratios[name].append(one["ratio"])
            print(name, seed, one, flush=True)
        yield found | {name: over_seeds(each) for name, each in ratios.items() if name != "fp32"}


def over_seeds(ratios: list[float]) -> dict[str, Any]:
    """Their mean and, of several, half of the mean's 95 % interval."""
    found = summary(ratios, digits=5)
    return {"seeds": len(ratios), "ratio": found["mean"]} | (
        {"interval": found["interval"]} if "interval" in found else {}
    )


def compared(run: dict[str, Any], exact: dict[str, Any]) -> dict[str, Any]:
    """A run against the one in fp32."""
    ratios = [a / b for a, b in zip(run["losses"], exact["losses"], strict=True)]
    return {
        "updates": len(ratios),
        "skipped": run["skipped"],
        "first and last loss": [run["losses"][0], run["losses"][-1]],
        "mean loss": round(statistics.mean(run["losses"]), 4),
        "ratio": round(sum(run["losses"]) / sum(exact["losses"]), 5),
        "of one update: least": round(min(ratios), 4),
        "of one update: most": round(max(ratios), 4),
        "largest gradient norm": max(run["norms"]),
    }


def main() -> int:
    """Join, measure, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("t5", type=Path, help="Hugging Face folder of a trained T5")
    parser.add_argument("sentences", type=Path, nargs="?", help="text file, one source per line")
    parser.add_argument("--rows", type=int, default=100, help="sentences, the first ones")
    parser.add_argument("--updates", type=int, default=50, help="of a training (50)")
    parser.add_argument("--seed", nargs="+", default=["1"], help="two to five have an interval")
    parser.add_argument("--in", dest="dtypes", nargs="+", choices=DTYPES, default=[*DTYPES])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = folder / "init.pt"
        command(
            *("-m", "vt_fairseq.cli.init", "--t5", args.t5, "--video", "random", "--out", start),
            *("--arch", "video_translate_t5_small", "--t5-variant", "v1_1"),
            *("--video-network", "tiny"),
        )
        # The results name no path of this machine.
        if args.sentences is not None:
            sentences = args.sentences.read_text(encoding="utf-8").splitlines()[: args.rows]
            measured = inference(start, sentences)
            parts = [part for found in measured.values() for part in found.values()]
            judged = [part["ratio"] for part in parts if isinstance(part, dict)]
            sys.argv[1:] = ["T5", args.sentences.name, "--rows", str(args.rows)]
            measuring.write_result("trained_t5", measuring.machine("deepspeed"), measured)
        else:
            done = training(folder, args.t5, start, args.updates, args.seed, args.dtypes)
            for count, measured in enumerate(done, 1):
                judged = [measured[dtype]["ratio"] for dtype in args.dtypes]
                sys.argv[1:] = ["T5", "--updates", str(args.updates)]
                sys.argv += ["--seed", *args.seed[:count], "--in", *args.dtypes]
                about = measuring.machine("deepspeed")
                measuring.write_result("trained_t5_training", about, measured)
    return int(not all(abs(ratio - 1) <= WITHIN for ratio in judged))


if __name__ == "__main__":
    sys.exit(main())
