"""The files of a submission; those of TVQA and TVC.

TVC: github.com/jayleicn/TVCaption, standalone_eval. TVQA's page of instructions is gone: its format
is taken from what two public repositories submitted, MERLOT Reserve's TVQA script among them.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vt_fairseq.corpora import tvc, tvqa
from vt_fairseq.corpora.files import integer, jsonl_records, require_file
from vt_fairseq.corpora.tv import Release
from vt_fairseq.errors import UserError
from vt_fairseq.files.result_files import JsonRow, is_index, is_text, predicted, read

NO_CAPTION = "."  # TVC's scorer loses an empty line; a full stop has no word in it either


@dataclass(frozen=True)
class SubmissionFile:
    """One split's predictions in a server's format.

    Attributes:
        ids: the official ones, all of them, in their order.
        missing: those without a prediction.
        pieces: the text of the file.
    """

    ids: list[str]
    missing: int
    pieces: Iterator[str]


def known(rows: dict[str, JsonRow], ids: Iterable[str], split: str) -> dict[str, JsonRow]:
    """``rows``; raise UserError when one of them is not among the official ``ids``."""
    official = set(ids)
    for name, row in rows.items():
        if name not in official:
            raise UserError(f"{row['_where']}: id {name!r} is not in the official {split} split")
    return rows


def tvqa_answers(annotations: Path, split: str, path: Path) -> SubmissionFile:
    """{qid: index of the answer}; 0 for a question without a prediction."""
    ids = [str(record["qid"]) for record in _records(annotations, tvqa.RELEASE, split, "qid")]
    rows, count = known(read(path), ids, split), len(tvqa.ANSWERS)
    choices = {
        qid: predicted(
            rows.get(qid),
            "prediction",
            lambda index: is_index(index) and index < count,
            f"the index of a candidate, 0 to {count - 1}",
        )
        for qid in ids
    }
    answers = {qid: choice or 0 for qid, choice in choices.items()}
    missing = sum(choice is None for choice in choices.values())
    return SubmissionFile(ids, missing, iter([json.dumps(answers, allow_nan=False) + "\n"]))


def tvc_descriptions(annotations: Path, split: str, path: Path) -> SubmissionFile:
    """The moments of the official file, one per line, with one description."""
    records = list(_records(annotations, tvc.RELEASE, split, "clip_id"))
    ids = [str(record["clip_id"]) for record in records]
    rows = known(read(path), ids, split)
    texts = [predicted(rows.get(clip), "prediction", is_text, "a text") for clip in ids]
    lines = (_described(record, text) for record, text in zip(records, texts, strict=True))
    return SubmissionFile(ids, sum(text is None for text in texts), lines)


def _described(record: JsonRow, text: str | None) -> str:
    moment = {key: record.get(key) for key in ("vid_name", "clip_id", "ts")}
    description = " ".join((text or "").split()) or NO_CAPTION
    return json.dumps(moment | {"descs": [{"desc": description}]}, allow_nan=False) + "\n"


def _records(annotations: Path, release: Release, split: str, key: str) -> Iterator[JsonRow]:
    path = require_file(annotations, release.files[split], source=release.published_at)
    for where, record in jsonl_records(path):
        integer(record.get(key), where, key)
        yield record
