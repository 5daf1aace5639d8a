"""Runs the whole of vt_fairseq on MiniWorld with the public commands and prints one table.

Called by quickstart.sh. Steps that are already done are skipped, so an interrupted run goes on:
training resumes from its last checkpoint.
"""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "quickstart"
DATA, CHECKPOINTS = OUT / "data", OUT / "checkpoints"
CHECKPOINT = CHECKPOINTS / "checkpoint_last.pt"
PLUGIN = ["--user-dir", str(ROOT / "user_dir"), "--task", "video_translate"]
UPDATES = 1500
# Training and the decoding process share the cores: threads that spin while they wait would take
# the time of those that work.
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
EVALUATIONS_AT_ONCE = 2

ENGINES = {
    "deepspeed": ["--optimizer", "deepspeed_adam", "--zero-stage", "1", "--adam-backend", "torch"],
    "fairseq": ["--optimizer", "adam"],
}
TRAIN = [
    "fairseq-train",
    str(DATA),
    *PLUGIN,
    *["--arch", "video_translate_tiny", "--criterion", "video_translate"],
    *["--actions", "caption,classify,answer", "--text-dropout", "0.8", "--no-context"],
    *["--num-frames", "8", "--frame-size", "40", "--no-flip", "--crop-scales", "1,0.9"],
    *["--adam-betas", "(0.9,0.98)", "--clip-norm", "1.0", "--lr", "1e-3"],
    *f"--lr-scheduler polynomial_decay --warmup-updates 100 --total-num-update {UPDATES}".split(),
    *f"--batch-size 32 --max-update {UPDATES} --num-workers 1 --seed 1 --cpu".split(),
    *["--validate-interval", "1000"],
    *["--save-interval-updates", "300", "--keep-interval-updates", "1"],
    *["--no-epoch-checkpoints", "--log-format", "simple", "--log-interval", "30"],
    *["--save-dir", str(CHECKPOINTS)],
]


class PeakMemory(threading.Thread):
    """Highest memory of this process and all its children together, in GB, sampled."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak_gb = 0.0

    def run(self) -> None:
        while True:
            self.peak_gb = max(self.peak_gb, tree_memory_gb())
            time.sleep(1.0)


def tree_memory_gb() -> float:
    """Proportional set size of this process and its descendants (Linux), shared pages once."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # the process has ended
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    total_kb, queue = 0, [int(Path("/proc/self").resolve().name)]
    while queue:
        pid = queue.pop()
        queue += children.get(pid, [])
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total_kb += sum(int(line.split()[1]) for line in rollup.splitlines() if "Pss:" in line[:4])
    return total_kb / 1e6


def run(name: str, command: list[str], done: Path, threads: int | None = None) -> None:
    """Run one step unless ``done`` exists, its output in ``quickstart/logs``; stop on failure."""
    if done.exists():
        print(f"{name}: done before")
        return
    log = OUT / "logs" / f"{name.replace(' ', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(ENVIRONMENT)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    began = time.monotonic()
    with open(log, "a", encoding="utf-8") as file:
        file.write(shlex.join(command) + "\n")
        file.flush()
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        ).returncode
    if code != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
        raise SystemExit(f"{name} failed with exit code {code}; the end of {log}:\n{tail}")
    print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


def captions(split: str, blank: bool) -> dict:
    """Generate captions for a split and evaluate them."""
    name = f"caption-{split}{'-blank' if blank else ''}"
    folder = OUT / name
    generate = [
        *["fairseq-generate", str(DATA), *PLUGIN, "--path", str(CHECKPOINT)],
        *["--gen-subset", split, "--action", "caption", "--beam", "4", "--max-len-b", "24"],
        *["--batch-size", "32", "--cpu", "--results-path", str(folder)],
        *(["--blank-video"] if blank else []),
    ]
    run(f"generate {name}", generate, folder / "metrics.json", threads=1)
    files = [f"--{kind}={folder}/{kind}.jsonl" for kind in ("predictions", "references")]
    metrics = folder / "metrics.json"
    evaluate = ["vt-evaluate", "captions", *files, "--coco=off", f"--out={metrics}"]
    run(f"evaluate {name}", evaluate, metrics, 1)
    return json.loads(metrics.read_text())


def scores(kind: str, split: str, blank: bool) -> dict:
    """Rank candidates for a split."""
    name = f"{kind}-{split}{'-blank' if blank else ''}"
    folder = OUT / name
    command = [
        *["vt-score", kind, str(DATA), "--path", str(CHECKPOINT), "--split", split],
        *["--out", str(folder), "--batch-size", "32", "--cpu"],
        *(["--blank-video"] if blank else []),
    ]
    run(f"score {name}", command, folder / "metrics.json", threads=1)
    return json.loads((folder / "metrics.json").read_text())


def measure() -> dict[str, float]:
    """The numbers of the table: held-out videos, the same blanked, and unseen combinations."""
    jobs: dict[str, tuple] = {
        "classify_accuracy": (scores, "classify", "test", "accuracy"),
        "caption_bleu4": (captions, None, "test", "bleu4"),
        "vqa_accuracy": (scores, "vqa", "test", "accuracy"),
        "retrieval_r1": (scores, "retrieval", "retrieval", "r1"),
        "novel_caption_bleu4": (captions, None, "novel", "bleu4"),
        "novel_vqa_accuracy": (scores, "vqa", "novel", "accuracy"),
        "novel_classify_accuracy": (scores, "classify", "novel", "accuracy"),
    }
    blank = {f"blank_{key}": job for key, job in jobs.items()}

    def result(item: tuple[str, tuple]) -> float:
        name, (function, kind, split, key) = item
        arguments = [split] if kind is None else [kind, split]
        return function(*arguments, blank=name.startswith("blank_"))[key]

    items = [*jobs.items(), *blank.items()]
    with ThreadPoolExecutor(EVALUATIONS_AT_ONCE) as pool:
        return dict(zip([name for name, _ in items], pool.map(result, items), strict=True))


def table(metrics: dict[str, float]) -> str:
    """Text of the results, the same model with and without seeing the video."""
    rows = [
        ("captions, BLEU-4", "caption_bleu4"),
        ("question answering, accuracy of 5", "vqa_accuracy"),
        ("text to video, R@1 of 120 clips", "retrieval_r1"),
        ("classification, accuracy of 144", "classify_accuracy"),
        ("never seen together: captions, BLEU-4", "novel_caption_bleu4"),
        ("never seen together: question answering", "novel_vqa_accuracy"),
        ("never seen together: classification", "novel_classify_accuracy"),
    ]
    lines = [f"{'held-out videos, per cent':42} {'video':>6} {'blank':>6}"]
    for name, key in rows:
        lines.append(f"{name:42} {metrics[key]:6.1f} {metrics[f'blank_{key}']:6.1f}")
    return "\n".join(lines)


def main() -> None:
    """Prepare, train, generate, score, report, print."""
    began = float(sys.argv[1])
    memory = PeakMemory()
    memory.start()
    OUT.mkdir(exist_ok=True)
    engine = os.environ.get("ENGINE") or "deepspeed"
    if engine not in ENGINES:
        raise SystemExit(f"error: ENGINE: expected {' or '.join(ENGINES)}, found {engine}")
    prepare = ["vt-prepare", "miniworld", "--out", str(DATA), "--train-vocabulary", "300"]
    run("prepare MiniWorld", prepare, DATA / "data.json")
    run("train", [*TRAIN, *ENGINES[engine]], OUT / "trained")
    (OUT / "trained").touch()
    metrics = measure()
    report = OUT / "report.html"
    run("write the report", ["vt-report", str(OUT), "--out", str(report)], report)
    metrics |= {"seconds": round(time.time() - began), "peak_memory_gb": round(memory.peak_gb, 2)}
    path = OUT / "metrics.json"
    if not path.exists():  # a second run has not taken the time or the memory of the first
        path.write_text(json.dumps(metrics, indent=1) + "\n")
    metrics = json.loads(path.read_text())
    print(f"\n{table(metrics)}\n")
    print(f"{metrics['seconds']} s in all, at most {metrics['peak_memory_gb']} GB of memory")
    print(f"metrics:     {path}\ncheckpoint:  {CHECKPOINT}\nlogs:        {OUT / 'logs'}")
    print(f"captions:    {OUT / 'caption-test' / 'predictions.jsonl'}")
    print(f"report:      {report}   (open it in a browser)")


if __name__ == "__main__":
    main()
