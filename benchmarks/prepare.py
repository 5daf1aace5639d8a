"""How fast ``vt-prepare`` reads each corpus's official files, and in how much memory.

    VT_TEST_DATA=DIR python benchmarks/prepare.py

DIR/annotations holds the official files that are at hand; HowTo100M's are made, 500,000 clips and
the full table of videos. Videos are not opened (--skip-probe). Rows are counted a second of CPU
time, start-up included, which other work on the machine does not change. Writes prepare.json
beside this file.
"""

import json
import os
import tempfile
from pathlib import Path

from manifest_memory import measured, write_annotations

RESULT = Path(__file__).with_suffix(".json")
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
        command = ["-m", "vt_fairseq.cli.prepare", corpus, "--annotations", str(annotations)]
        command += ["--videos", str(videos), "--out", str(out), "--skip-probe"]
        command += ["--vocabulary", str(vocabulary)]
        command += ["--subtitles", "none"] if corpus in ("tvqa", "tvc") else []
        found = measured(*command)
        splits = json.loads((out / "data.json").read_text())["splits"].values()
        size = sum(path.stat().st_size for path in out.glob("*.arrow"))
    rows = sum(counts["rows"] for counts in splits)
    return {
        "rows": rows,
        "rejected": sum(counts["rejected"] for counts in splits),
        "rows_a_cpu_second": round(rows / found["cpu_seconds"]),
        "peak_mb": found["peak_mb"],
        "bytes_a_row": round(size / rows),
    }


def main() -> None:
    """Measure, print and write down."""
    root = Path(os.environ["VT_TEST_DATA"])
    vocabulary = root / "t5" / "spiece.model"
    found = {
        corpus: prepare(corpus, root / "annotations" / folder, vocabulary)
        for corpus, folder in FOLDERS.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        write_annotations(Path(folder), HOWTO100M_ROWS)
        found["howto100m"] = prepare("howto100m", Path(folder), vocabulary)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"{'corpus':14} {'rows':>8} {'rejected':>8} {'rows/CPU s':>10} {'peak MB':>8} {'B/row':>6}"
    )
    for corpus, row in found.items():
        print(
            f"{corpus:14} {row['rows']:8,} {row['rejected']:8,} {row['rows_a_cpu_second']:10,} "
            f"{row['peak_mb']:8} {row['bytes_a_row']:6}"
        )


if __name__ == "__main__":
    main()
