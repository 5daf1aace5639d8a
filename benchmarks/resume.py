"""How far is a training that was stopped and gone on with from one that never stopped?

    python benchmarks/resume.py

Eight updates of three an epoch, of a tiny model; stopped at the end of the first epoch and in the
middle of the second. With fairseq's optimizer and with DeepSpeed's ZeRO-2, in fp32 and bf16, on one
process and on two. Prints and writes to results/resume.json the largest difference of a weight.
"""

import sys
import tempfile
from pathlib import Path

import measuring

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import torch

from tests import killing
from tests.conftest import run_main

STOPS, LAST = (3, 5), 8
ON_CPUS = ["--ddp-backend", "legacy_ddp"]
WAYS = {
    "plain": killing.PLAIN,
    "plain, bf16": [*killing.PLAIN, "--bf16", "--fp16-no-flatten-grads"],
    "deepspeed": killing.DEEPSPEED,
}


def train(data: Path, folder: Path, options: list[str], processes: int, updates: int) -> None:
    """Start or go on in ``folder/save`` until so many updates."""
    options = [*options, "--batch-size", str(8 // processes), *ON_CPUS]
    cfg = killing.configuration(data, folder / "save", options, updates)
    record = folder / str(updates)
    if processes == 2:
        killing.train_with_two(cfg, record)
    else:
        killing.wait(killing.start(cfg, record), record)


def load(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Its weights."""
    return torch.load(checkpoint, weights_only=True)["model"]


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest of any weight; counts of batches are no weights."""
    if one.keys() != other.keys():
        raise ValueError("expected the same weights in both runs")
    names = [name for name, tensor in one.items() if tensor.is_floating_point()]
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in names)


def main() -> None:
    """Train, compare, print, write down."""
    import deepspeed  # noqa: F401  (once, for all forks)

    measured: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        run_main(
            "vt_fairseq.cli.prepare",
            *["miniworld", "--size", "tiny", "--out", str(data), "--train-vocabulary", "200"],
            *["--workers", "1"],
        )
        for name, options in WAYS.items():
            for processes in (1, 2):
                ends = {}
                for kind, stops in (("whole", (LAST,)), ("stopped", (*STOPS, LAST))):
                    folder = Path(temporary) / f"{name} {processes} {kind}"
                    folder.mkdir()
                    for updates in stops:
                        train(data, folder, options, processes, updates)
                    ends[kind] = load(folder / "save" / "checkpoint_last.pt")
                ends["second epoch"] = load(folder / "save" / "checkpoint2.pt")
                found = {
                    "difference": difference(ends["whole"], ends["stopped"]),
                    "learned after the second epoch": difference(
                        ends["whole"], ends["second epoch"]
                    ),
                }
                measured[f"{name}, processes: {processes}"] = found
                print(f"{name:12} {processes} processes: {found}", flush=True)
    measuring.write_result("resume", measuring.machine("ve-fairseq", "deepspeed"), measured)


if __name__ == "__main__":
    main()
