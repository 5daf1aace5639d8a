"""How far a compiled training in fp32 is from eager, and eager from itself, on a CPU.

    python benchmarks/compiled_losses.py [--without compiled]

The quickstart's model trains for 50 updates on the same made-up batches: as a reference in eager on
one thread, and then in ways that differ from it by the last bits of sums. With ``compiled``,
Inductor compiles C++, which takes minutes; ``decomposed`` has the operations that Inductor is
given, each by torch's own kernel. Prints the largest relative difference of a loss, of the first,
of the first five and of all updates; writes results/compiled_losses.json.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import measuring
import torch

from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from vt_fairseq.criterions.cross_entropy import VideoTranslateCriterion
    from vt_fairseq.models.architectures import TinyConfig, build_model

VOCABULARY, VIDEO = 384, 303
BATCHES, ROWS, FRAMES, SIZE, TOKENS, WORDS = 5, 4, 4, 32, 16, 9
UPDATES, WARM_UP, LEARNING_RATE = 50, 10, 3e-5
Loss = Callable[..., torch.Tensor]


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


def losses(loss: Loss = loss_of, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Losses per token of the updates, (UPDATES,) in fp64."""
    torch.manual_seed(0)
    config = TinyConfig(dropout=0.0)
    model = build_model(config, vocab_size=VOCABULARY, video_id=VIDEO).train().to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), eps=1e-6, weight_decay=0.0)
    every = list(batches(model.encoder.video.num_tokens(FRAMES)))
    found = []
    for update in range(1, UPDATES + 1):
        rate = LEARNING_RATE * min(update / WARM_UP, (WARM_UP / update) ** 0.5)
        optimizer.param_groups[0]["lr"] = rate
        batch = every[update % BATCHES]
        mean = loss(model, *batch) / (ROWS * WORDS)
        optimizer.zero_grad()
        mean.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        found.append(mean.item())
    return torch.tensor(found, dtype=torch.float64)


def on_two_threads() -> torch.Tensor:
    """Eager, whose sums are split otherwise."""
    torch.set_num_threads(2)
    found = losses()
    torch.set_num_threads(1)
    return found


def without_onednn() -> torch.Tensor:
    """Eager, with torch's own convolutions and products."""
    with torch.backends.mkldnn.flags(enabled=False):
        return losses()


def compiled(backend: str) -> torch.Tensor:
    """By a backend of torch.compile."""
    torch.compiler.reset()
    return losses(torch.compile(loss_of, fullgraph=True, backend=backend))


WAYS: dict[str, Callable[[], torch.Tensor]] = {
    "eager again": losses,
    "eager on two threads": on_two_threads,
    "eager without oneDNN": without_onednn,
    "eager in fp64": lambda: losses(dtype=torch.float64),
    "traced": lambda: compiled("aot_eager"),
    "decomposed": lambda: compiled("aot_eager_decomp_partition"),
    "compiled": lambda: compiled("inductor"),
}


def main() -> int:
    """Train in all ways, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without", choices=WAYS, action="append", default=[], help="of the ways")
    args = parser.parse_args()
    torch.set_num_threads(1)
    reference = losses()
    found = {}
    for name in WAYS:
        if name in args.without:
            continue
        apart = ((WAYS[name]() - reference) / reference).abs()
        spans = {"first": apart[:1], "first five": apart[:5], "all": apart}
        found[name] = {span: float(f"{part.max().item():.1e}") for span, part in spans.items()}
        print(f"{name}: {found[name]}", flush=True)
    return measuring.write_result("compiled_losses", measuring.machine(), found)


if __name__ == "__main__":
    sys.exit(main())
