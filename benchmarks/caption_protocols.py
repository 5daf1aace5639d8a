"""How far apart are the protocols for the very same captions?

    python benchmarks/caption_protocols.py VT_TEST_DATA

TVC's 10,841 sample predictions against the one description that TVR's public validation file has
of each clip (one of TVC's four, so the numbers lie below the published ones). vt-evaluate scores
them with the COCO toolkit's tokenizer and with none; needs Java. Writes caption_protocols.json
beside this file.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEYS = ("bleu4", "coco_bleu4", "coco_meteor", "coco_rouge_l", "coco_cider")


def read(path: Path) -> list[dict]:
    """The objects of a jsonl file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: Path, rows: list[dict]) -> None:
    """A jsonl file."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def evaluate(folder: Path, *options: str) -> dict:
    """vt-evaluate's metrics of the two files in ``folder``."""
    files = [f"--{kind}={folder}/{kind}.jsonl" for kind in ("predictions", "references")]
    command = ["vt-evaluate", "captions", *files, "--ascii-only", f"--out={folder}/metrics.json"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "metrics.json").read_text())


def main() -> None:
    """Score, print and write down."""
    source = Path(sys.argv[1]) / "annotations" / "tvc"
    described = {
        (r["vid_name"], *r["ts"]): r["desc"] for r in read(source / "tvr_val_release.jsonl")
    }
    sample = read(source / "sample_val_predictions.jsonl")
    found: dict = {
        "command": "python benchmarks/caption_protocols.py VT_TEST_DATA",
        "clips": len(sample),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        references = [
            {"clip_id": r["clip_id"], "descs": [{"desc": described[(r["vid_name"], *r["ts"])]}]}
            for r in sample
        ]
        write(folder / "predictions.jsonl", sample)
        write(folder / "references.jsonl", references)
        for tokenizer in ("ptb", "none"):
            metrics = evaluate(folder, "--coco", tokenizer)
            found[tokenizer] = {key: round(metrics[key], 2) for key in KEYS}
        metrics = evaluate(folder, "--coco", "off", "--confidence", "0.95")
        found["bleu4_95"] = [round(metrics[f"bleu4_{end}"], 2) for end in ("low", "high")]
    print(json.dumps(found, indent=1))
    (HERE / "caption_protocols.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
