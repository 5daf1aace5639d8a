"""Folders for vt-report to read, and what is in the pages that it writes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.corpora import write_jsonl
from tests.media import write_numbered
from vt_fairseq.data.manifest import ClipRow, write_manifest
from vt_fairseq.data.root_signatures import sign
from vt_fairseq.report.content import read_content
from vt_fairseq.report.page import render

HOSTILE = (
    "</script></style><script>window.hacked = 1; alert(1)</script>"
    '<img src=x onerror="window.hacked = 1; alert(2)"><!--<script> {{ 7 * 7 }} \' " & \u2028 \u202e'
)
HOSTILE_PATH = "javascript:alert(3)//<iframe src=javascript:alert(4)>.mp4"


def write_data(folder: Path, videos: Path, splits: Mapping[str, list[ClipRow]]) -> None:
    """A data directory as far as a report looks into it."""
    for name, rows in splits.items():
        write_manifest(folder / f"{name}.arrow", rows)
    known: dict[str, Any] = {"format": 1, "corpus": "jsonl", "settings": {}}
    known |= {"video_root": str(videos), "video_root_signature": sign(videos)}
    known["splits"] = {name: {"rows": len(rows), "rejected": 0} for name, rows in splits.items()}
    (folder / "data.json").write_text(json.dumps(known))


def write_hostile(folder: Path) -> Path:
    """Results of all four kinds, a log and rejected rows, every text of which attacks the page."""
    (folder / "videos").mkdir(parents=True)
    write_numbered(folder / "videos" / "a.mp4", 25)
    ids = [f"{k} {HOSTILE}" for k in range(30)]
    texts = {"captions": (HOSTILE,), "label": HOSTILE, "question": HOSTILE}
    texts["candidates"] = (HOSTILE, "two")
    rows = [
        ClipRow(name, HOSTILE_PATH if k else "a.mp4", answer=k % 2, **texts)
        for k, name in enumerate(ids)
    ]
    split = "test"
    write_data(folder / "data", folder / "videos", {split: rows})
    rejected = dict.fromkeys(("id", "video", "split", "reason", "where"), HOSTILE)
    write_jsonl(folder / "data" / "rejected.jsonl", rejected)
    data = json.loads((folder / "data" / "data.json").read_text())
    (folder / "data" / "data.json").write_text(json.dumps(data | {"reasons": {HOSTILE: 1}}))

    captions = [{"id": name, "prediction": HOSTILE} for name in ids]
    write_jsonl(folder / "captions" / "predictions.jsonl", *captions)
    for kind, prediction in (
        ("vqa", {"prediction": 0, "scores": [-1.0, -2.0]}),
        ("classify", {"prediction": f"{HOSTILE}!", "ranking": [f"{HOSTILE}!", HOSTILE]}),
        ("retrieval", {"ranking": ids}),
    ):
        given = [{"id": name} | prediction for name in ids[:-1]]
        last = {key: None for key in prediction if key != "scores"}
        write_jsonl(folder / kind / "predictions.jsonl", *given, {"id": ids[-1]} | last)
        settings = {"kind": kind, "split": split}
        (folder / kind / "settings.json").write_text(json.dumps(settings))
    metrics = {"accuracy": 50.0, HOSTILE: 1.0, "signatures": {HOSTILE: HOSTILE}}
    (folder / "vqa" / "metrics.json").write_text(json.dumps(metrics))
    flat = HOSTILE.replace("\u2028", " ")
    name = flat.replace(" ", "")
    (folder / "train <img src=x onerror=alert(5)>.log").write_text(
        "x | INFO | train_inner | epoch 001:  1 / 2 loss=2, num_updates=1\n"
        f"x | INFO | {name} | epoch 001 | valid on '{name}' subset | loss 3 | num_updates 1\n"
        f"x | WARNING | task | cannot read clip {flat}: {flat}\n"
    )
    return folder


def page_of(*folders: Path, clips: int = 100) -> str:
    """The page about these folders."""
    return render(read_content(folders, [], clips)).decode()


def block(page: str, name: str) -> Any:
    """What a JSON element of the page holds."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    return json.loads(found[1])


def rows_of(page: str, number: int = 0) -> list[dict[str, Any]]:
    """The rows of a result, in the order of the page."""
    return block(page, f"result-{number}")["rows"]
