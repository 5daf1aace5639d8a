"""How far a compiled training is from eager, and eager from itself, on a CPU.

    python benchmarks/compiled_losses.py [--without compiled --without "in fp64: compiled"]

The quickstart's model trains for 50 updates on the same made-up batches: in eager on one thread as
a reference, in fp32 and in fp64, and then in ways that differ from it by the last bits of sums.
What computes the same function is then far nearer to the reference in fp64. With ``compiled``,
Inductor compiles C++, which takes minutes; ``decomposed`` has the operations that Inductor is
given, each by torch's own kernel. Prints the largest relative difference of a loss, of the first,
of the first five and of all updates, and that of the first update's gradient, by its norm; writes
results/compiled_losses.json. Ends with 1 where the compiled losses in fp64 miss their bar.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import measuring
import torch

from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from vt_fairseq.criterions.cross_entropy import VideoTranslateCriterion
    from vt_fairseq.models.architectures import TinyConfig, build_model

VOCABULARY, VIDEO = 384, 303
BATCHES, ROWS, FRAMES, SIZE, TOKENS, WORDS = 5, 4, 4, 32, 16, 9
UPDATES, WARM_UP, LEARNING_RATE = 50, 10, 3e-5
BAR = 1e-6  # relative difference of a loss in fp64
Loss = Callable[..., torch.Tensor]


class Training(NamedTuple):
    """Losses per token of the updates, (UPDATES,), and the first update's gradient; in fp64."""

    losses: torch.Tensor
    gradient: torch.Tensor


def loss_of(model: Any, source: Any, previous: Any, video: Any, target: Any) -> torch.Tensor:
    """Summed cross-entropy of a batch."""
    return VideoTranslateCriterion.token_loss(
        model(source, previous, video=video)[0], target, "sum"
    )[0]


def batches(video_tokens: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Sources (B, S), previous tokens (B, L), frames (B, F, H, W, 3) and targets (B, L)."""
    random = torch.Generator().manual_seed(3)
    for _ in range(BATCHES):
        source = torch.randint(5, 300, (ROWS, TOKENS), generator=random)
        source[:, 2 : 2 + video_tokens] = VIDEO
        target = torch.randint(5, 300, (ROWS, TOKENS), generator=random)
        target[:, WORDS:] = 0
        frames = (ROWS, FRAMES, SIZE, SIZE, 3)
        video = torch.randint(0, 256, frames, generator=random, dtype=torch.uint8)
        yield source, target.roll(1, 1), video, target


def train(dtype: torch.dtype = torch.float32, loss: Loss = loss_of) -> Training:
    """Train a new model."""
    torch.manual_seed(0)
    config = TinyConfig(dropout=0.0)
    model = build_model(config, vocab_size=VOCABULARY, video_id=VIDEO).train().to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), eps=1e-6, weight_decay=0.0)
    every = list(batches(model.encoder.video.num_tokens(FRAMES)))
    found, gradient = [], torch.empty(0)
    for update in range(1, UPDATES + 1):
        rate = LEARNING_RATE * min(update / WARM_UP, (WARM_UP / update) ** 0.5)
        optimizer.param_groups[0]["lr"] = rate
        batch = every[update % BATCHES]
        mean = loss(model, *batch) / (ROWS * WORDS)
        optimizer.zero_grad()
        mean.backward()
        if update == 1:
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        found.append(mean.item())
    return Training(torch.tensor(found, dtype=torch.float64), gradient)


def on_two_threads(dtype: torch.dtype) -> Training:
    """Eager, whose sums are split otherwise."""
    torch.set_num_threads(2)
    found = train(dtype)
    torch.set_num_threads(1)
    return found


def without_onednn(dtype: torch.dtype) -> Training:
    """Eager, with torch's own convolutions and products."""
    with torch.backends.mkldnn.flags(enabled=False):
        return train(dtype)


def compiled(dtype: torch.dtype, backend: str = "inductor") -> Training:
    """By a backend of torch.compile."""
    torch.compiler.reset()
    return train(dtype, torch.compile(loss_of, fullgraph=True, backend=backend))


# Each is compared with eager in the dtype beside it.
WAYS: dict[str, tuple[torch.dtype, Callable[[torch.dtype], Training]]] = {
    "eager again": (torch.float32, train),
    "eager on two threads": (torch.float32, on_two_threads),
    "eager without oneDNN": (torch.float32, without_onednn),
    "eager in fp64": (torch.float32, lambda _: train(torch.float64)),
    "traced": (torch.float32, lambda dtype: compiled(dtype, "aot_eager")),
    "decomposed": (torch.float32, lambda dtype: compiled(dtype, "aot_eager_decomp_partition")),
    "compiled": (torch.float32, compiled),
    "in fp64: eager on two threads": (torch.float64, on_two_threads),
    "in fp64: compiled": (torch.float64, compiled),
}


def differences(found: Training, reference: Training) -> dict[str, float]:
    """Of the losses and of the gradient, relative."""
    apart = ((found.losses - reference.losses) / reference.losses).abs()
    spans = {"first": apart[:1], "first five": apart[:5], "all": apart}
    largest = {span: part.max().item() for span, part in spans.items()}
    off = (found.gradient - reference.gradient).norm() / reference.gradient.norm()
    every = largest | {"first gradient": off.item()}
    return {name: float(f"{x:.1e}") for name, x in every.items()}


def main() -> int:
    """Train in all ways, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without", choices=WAYS, action="append", default=[], help="of the ways")
    args = parser.parse_args()
    torch.set_num_threads(1)
    references = {dtype: train(dtype) for dtype in (torch.float32, torch.float64)}
    found: dict[str, dict[str, Any]] = {}
    for name, (dtype, way) in WAYS.items():
        if name in args.without:
            continue
        found[name] = differences(way(dtype), references[dtype])
        print(f"{name}: {found[name]}", flush=True)
    if (last := found.get("in fp64: compiled")) is not None:
        ratio = dict.fromkeys(("ratio", "least", "most"), last["all"])
        found["in fp64: compiled losses against eager"] = measuring.judged(ratio, at_most=BAR)
    return measuring.write_result("compiled_losses", measuring.machine(), found)


if __name__ == "__main__":
    sys.exit(main())
