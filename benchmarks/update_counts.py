"""What an update launches on a GPU, counted on a CPU: operations, waits, Python calls, memory.

    python benchmarks/update_counts.py [--only "fp16, ZeRO-2"] [--result update_counts]

The model (narrow_model.py) has t5-large's and R(2+1)D-34's layers, which decide about counts, and
narrow ones, which do not matter. What CUDA has as one kernel counts as one operation, and so does a
multi-tensor operation. Tensors of the host (a number that was read, and what is computed from it)
do not count.

- ``operations``: of the video network's and the transformer's passes and of all the rest.
- ``host syncs``: where the host waits for the card: values that are read, shapes that depend on
  values, blocking copies to the card.
- ``Python calls``: of one update without the counter, C functions that Python calls included.
- ``fp32 products``: matrix products with fp32 factors.
- ``bytes per parameter``: the most that is there in the optimizer's step, of a model whose
  parameters outweigh its activations.

Each setting is a process. Prints a table; writes results/NAME.json.
"""

import argparse
import cProfile
import functools
import gc
import json
import pstats
import shlex
import sys
import tempfile
import traceback
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import measuring
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vt_fairseq.quiet_imports import quiet_imports

with quiet_imports():
    from fairseq.logging import metrics
    from gpu.training import build, made_up
    from narrow_model import (
        ALIKE,
        FULL_DEPTH,
        PRECISIONS,
        SEVERAL,
        allow_fp16,
        child,
        count_as_a_gpu,
        of_few_tokens,
        write_data,
    )

SETTINGS = {
    **PRECISIONS,
    "fp16, ZeRO-2": ["--fp16", "--zero-stage", "2"],
    "fp16, ZeRO-3": ["--fp16", "--zero-stage", "3"],
}
MANY_PARAMETERS = [
    *["--arch", "video_translate_t5_small", "--video-network", "tiny"],
    *["--t5-dims", "d_model=256,d_kv=64,d_ff=1024,num_heads=4", "--num-frames", "8"],
    *["--frame-size", "32", "--video-lr-scale", "0.1"],
]
# A sixteenth of its parameters, as ours are of t5-large's.
BUCKETS = ("reduce_bucket_size", "allgather_bucket_size")
LOSS_SCALE = 2.0**-8  # of so narrow a model no update should overflow
COLUMNS = (
    *("outside forward and backward", "host syncs", "Python calls", "fp32 products"),
    "bytes per parameter",
)
OUTSIDE = ("zero_grad", "clip and norm", "step", "logging", "rest")
VIEWS = {
    *("view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze"),
    *("detach", "detach_", "alias", "as_strided", "split", "_unsafe_view", "_reshape_alias"),
    *("unbind", "split_with_sizes", "diagonal", "empty", "empty_like", "new_empty"),
    *("empty_strided", "new_empty_strided", "is_same_size", "set_", "unfold", "resize_", "chunk"),
    *("view_as", "record_stream", "narrow"),
}
SYNCS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "masked_scatter_backward", "equal"),
    *("is_nonzero", "unique", "_unique2"),
}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}


# --- counting -------------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Counts operations by phase, and where the host waits.

    A tensor is the host's if it was made from numbers without a device, or from such tensors alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = "rest"
        self.found: dict[str, Counter[str]] = defaultdict(Counter)
        self.syncs: Counter[str] = Counter()
        self.fp32_products = 0
        self._of_host: dict[int, torch.Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        device = (kwargs or {}).get("device")
        if name == "lift_fresh" or (device is None and all(map(self._is_hosts, given))):
            self._of_host |= {key(x): x for x in made}
            return result
        if name in SYNCS:
            self.syncs[f"{self.phase}: {name}: {caller()}"] += 1
        if name in PRODUCTS and all(x.dtype == torch.float32 for x in given):
            self.fp32_products += 1
        if name not in VIEWS and name != "_local_scalar_dense":
            self.found[self.phase][name] += SEVERAL.get(name, 1)
        return result

    def _is_hosts(self, tensor: torch.Tensor) -> bool:
        return key(tensor) in self._of_host

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor made of numbers for a device, for which the host waits."""
        if self._of_host.pop(key(tensor), None) is not None:
            self.syncs[f"{self.phase}: copy to the device: {caller()}"] += 1
        return tensor


def key(tensor: torch.Tensor) -> int:
    """Of its storage."""
    return tensor.untyped_storage()._cdata


def caller() -> str:
    """The innermost line of the package or of fairseq that led here."""
    for frame in reversed(traceback.extract_stack()):
        for package in ("vt_fairseq/", "fairseq/", "deepspeed/"):
            if f"/{package}" in frame.filename and "benchmarks" not in frame.filename:
                return f"{package}{frame.filename.rpartition(package)[2]}:{frame.lineno}"
    return "elsewhere"


def phases(trainer: Any, counter: Operations) -> None:
    """Let the counter know where an update is."""
    video = trainer.get_model().encoder.video

    def begin(name: str) -> Callable[..., None]:
        return lambda *_: setattr(counter, "phase", name)

    def after_video(module, inputs, output) -> None:
        counter.phase = "transformer forward"
        output.register_hook(begin("video backward"))

    trainer.get_model().register_forward_pre_hook(begin("transformer forward"))
    video.register_forward_pre_hook(begin("video forward"))
    video.register_forward_hook(after_video)
    for owner, name, phase in (
        (trainer, "zero_grad", "zero_grad"),
        (trainer.optimizer, "backward", "transformer backward"),
        (trainer, "clip_grad_norm", "clip and norm"),
        (trainer.task, "optimizer_step", "step"),
        (trainer, "_reduce_and_log_stats", "logging"),
    ):
        within(owner, name, begin(phase), begin("rest"))
    tensor = torch.tensor

    @functools.wraps(tensor)
    def counted_tensor(*args, device=None, **kwargs):
        made = tensor(*args, device=device, **kwargs)
        return made if device is None else counter.to_device(made)

    torch.tensor = counted_tensor


def within(owner: Any, name: str, before: Callable, after: Callable) -> None:
    """Call ``before`` and ``after`` around a method."""
    method = getattr(owner, name)

    def called(*args, **kwargs):
        before()
        try:
            return method(*args, **kwargs)
        finally:
            after()

    setattr(owner, name, called)


class Alive(TorchDispatchMode):
    """Bytes of the storages that were made since and are there; the most while ``phase`` was so."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.phase, self.now = "rest", 0
        self.most: dict[str, int] = defaultdict(int)
        self._known = known

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and key(leaf) not in self._known:
                storage = leaf.untyped_storage()
                self._known.add(key(leaf))
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, key(leaf), storage.nbytes())
        self.most[self.phase] = max(self.most[self.phase], self.now)
        return result

    def _gone(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.now -= size


def tensors() -> Iterator[torch.Tensor]:
    """All that Python knows of and that have contents."""
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type != "meta":
            yield thing


# --- one setting ----------------------------------------------------------------------------------


def made(options: list[str], folder: str) -> tuple[Any, dict[str, Any]]:
    """A trainer after two updates, and a batch; fp16 is allowed on the CPU."""
    allow_fp16()
    if "--zero-stage" in options:
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

        CPU_Accelerator.is_fp16_supported = lambda self: True
    torch.manual_seed(1)
    trainer, task = build(f"{folder}/data", [*ALIKE, *options], folder)
    trainer.begin_epoch(1)
    if getattr(trainer.optimizer, "scaler", None):
        trainer.optimizer.scaler.loss_scale = LOSS_SCALE
    batch = of_few_tokens(made_up(trainer, task, 44, 24), task.tokenizer.video)
    for _ in range(2):
        trainer.train_step([batch])
    return trainer, batch


def count(options: list[str], folder: str) -> dict[str, Any]:
    """Operations, waits and Python calls of an update."""
    count_as_a_gpu()
    with metrics.aggregate("train"):
        trainer, batch = made([*FULL_DEPTH, *options], folder)
        profile = cProfile.Profile()
        profile.runcall(trainer.train_step, [batch])
        counter = Operations()
        phases(trainer, counter)
        with counter:
            trainer.train_step([batch])
    operations = {phase: sum(found.values()) for phase, found in counter.found.items()}
    return {
        "operations": operations | {"all": sum(operations.values())},
        "outside forward and backward": sum(operations.get(phase, 0) for phase in OUTSIDE),
        "host syncs": sum(counter.syncs.values()),
        "Python calls": pstats.Stats(profile).total_calls,
        "fp32 products": counter.fp32_products,
        "where the host waits": dict(counter.syncs),
        "most frequent": {p: dict(found.most_common(6)) for p, found in counter.found.items()},
    }


def weigh(options: list[str], folder: str) -> dict[str, Any]:
    """Bytes per parameter in the optimizer's step."""
    buckets = Path(folder) / "buckets.json"
    buckets.write_text(json.dumps({"zero_optimization": dict.fromkeys(BUCKETS, 700_000)}))
    if "--zero-stage" in options:
        options = [*options, "--deepspeed-config", str(buckets)]
    with metrics.aggregate("train"):
        trainer, batch = made([*MANY_PARAMETERS, *options], folder)
        parameters = sum(
            getattr(p, "ds_numel", p.numel()) for p in trainer.get_model().parameters()
        )
        trainer.zero_grad()
        gc.collect()
        before = {key(t): t.untyped_storage().nbytes() for t in tensors()}
        alive = Alive(set(before))

        def begin(name: str) -> Callable[[], None]:
            return lambda: setattr(alive, "phase", name)

        within(trainer, "clip_grad_norm", begin("step"), begin("rest"))
        within(trainer.task, "optimizer_step", begin("step"), begin("rest"))
        with alive:
            trainer.train_step([batch])
    kept = sum(before.values())
    return {
        "bytes per parameter": round((kept + alive.most["step"]) / parameters, 2),
        "bytes per parameter between updates": round(kept / parameters, 2),
    }


def main() -> int:
    """Count, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SETTINGS, action="append", help="of the settings")
    parser.add_argument("--result", default="update_counts", help="name in results/")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        what, name, folder = args.child
        function = {"count": count, "weigh": weigh}[what]
        print("RESULT " + json.dumps(function(SETTINGS[name], folder)))
        return 0
    path = measuring.RESULTS / f"{args.result}.json"
    about = measuring.machine("ve-fairseq", "deepspeed")
    command = shlex.join(["python", "benchmarks/update_counts.py", *sys.argv[1:]])
    result: dict[str, Any] = {"command": command, "machine": about, "measured": {}}
    with tempfile.TemporaryDirectory() as folder:
        write_data(folder)
        for name in args.only or SETTINGS:
            found = child(__file__, "count", name, folder) | child(__file__, "weigh", name, folder)
            result["measured"][name] = found
            row = {"operations": found["operations"]["all"]} | {c: found[c] for c in COLUMNS}
            print(f"{name}: " + ", ".join(f"{c} {n:,}" for c, n in row.items()), flush=True)
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
