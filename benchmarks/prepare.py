"""How fast ``vt-prepare`` reads each corpus's official files, and in how much memory.

    python benchmarks/prepare.py DIR

DIR/annotations holds the official files that are at hand, DIR/t5 a vocabulary; HowTo100M's files
are made: 500,000 clips and the full table of videos. Videos are not opened (--skip-probe). Rows are
counted per second of CPU time, start-up included, which other work on the machine does not change.
Writes results/prepare.json.
"""

import json
import sys
import tempfile
from pathlib import Path

import measuring
from manifest_memory import write_annotations

HOWTO100M_ROWS = 500_000
FOLDERS = {
    "epic-kitchens": "epic_kitchens_55",
    "tvqa": "tvqa",
    "tvc": "tvc",
    "youcook2": "youcook2",
    "msrvtt": "msrvtt",
}


def prepare(corpus: str, annotations: Path, vocabulary: Path) -> dict[str, float]:
    """Prepare ``corpus`` once; its rows, their speed and the peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        out, videos = Path(folder, "data"), Path(folder, "videos")
        videos.mkdir()
        command = ["-m", "vt_fairseq.cli.prepare", corpus, "--annotations", annotations]
        command += ["--videos", videos, "--out", out, "--skip-probe", "--vocabulary", vocabulary]
        command += ["--subtitles", "none"] if corpus in ("tvqa", "tvc") else []
        found = measuring.process(sys.executable, *command)
        splits = json.loads((out / "data.json").read_text())["splits"].values()
        size = sum(path.stat().st_size for path in out.glob("*.arrow"))
    rows = sum(counts["rows"] for counts in splits)
    return {
        "rows": rows,
        "rejected": sum(counts["rejected"] for counts in splits),
        "rows_per_cpu_second": round(rows / found["cpu_seconds"]),
        "peak_mb": found["peak_mb"],
        "bytes_per_row": round(size / rows),
    }


def main() -> int:
    """Measure, print and write down."""
    root = Path(sys.argv[1])
    vocabulary = root / "t5" / "spiece.model"
    found = {
        corpus: prepare(corpus, root / "annotations" / folder, vocabulary)
        for corpus, folder in FOLDERS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        write_annotations(Path(folder), HOWTO100M_ROWS)
        found["howto100m"] = prepare("howto100m", Path(folder), vocabulary)
    return measuring.write_result("prepare", measuring.machine(), found)


if __name__ == "__main__":
    sys.exit(main())
