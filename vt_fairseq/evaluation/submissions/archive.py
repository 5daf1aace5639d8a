"""The archive that a server takes: a file for each of its splits.

Each server holds the labels of test clips that were not published. It wants an answer for every
one of them, so a clip without a prediction gets a wrong one, and the number of those is returned.
Splits have the names that ``vt-prepare`` gives them.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vt_fairseq.errors import UserError
from vt_fairseq.evaluation.submissions.epic_kitchens import epic_scores
from vt_fairseq.evaluation.submissions.files import (
    SubmissionFile,
    tvc_descriptions,
    tvqa_answers,
)
from vt_fairseq.files.atomic_files import atomic_file
from vt_fairseq.files.bounded_files import MAX_OBJECT, parse_json, read_file

TVQA_META = (
    "model_name", "is_ensemble", "with_ts", "show_on_leaderboard", "author", "institution",
    "description", "paper_link", "code_link",
)  # fmt: skip


@dataclass(frozen=True)
class Server:
    """What one server takes.

    Attributes:
        members: split -> name of its file in the archive; all of them are wanted.
        file: makes one from (folder of annotations, split, file of predictions).
        wants_meta: the archive has a meta.json, which its author writes.
    """

    members: Mapping[str, str]
    file: Callable[[Path, str, Path], SubmissionFile]
    wants_meta: bool = False


SERVERS = {
    "tvqa": Server(
        {"valid": "prediction_val.json", "test": "prediction_test_public.json"},
        tvqa_answers,
        wants_meta=True,
    ),
    "tvc": Server(
        {"valid": "tvc_val_submission.jsonl", "test": "tvc_test_public_submission.jsonl"},
        tvc_descriptions,
    ),
    "epic-kitchens": Server({"test_s1": "seen.json", "test_s2": "unseen.json"}, epic_scores),
}


def write(
    server: str, annotations: Path, predictions: Mapping[str, Path], out: Path, meta: Path | None
) -> dict[str, SubmissionFile]:
    """Write the archive ``out``, whole or not at all; return its files by name.

    Args:
        server: one of SERVERS.
        annotations: folder of the official annotation files, which say what clips there are.
        predictions: split -> jsonl with ``id`` and, for TVQA, ``prediction`` (index of the
            candidate); for TVC, ``prediction`` (text); for EPIC-Kitchens, ``verb`` and ``noun`` (a
            score for each class: a list in the order of the class ids, or an object by name) and,
            if need be, ``action`` (lists of verb, noun and score).
        meta: TVQA's description of the submission, a JSON object of TVQA_META.

    Raises UserError when a split is missing or unknown, and for every mistake in the files.
    """
    wanted = SERVERS[server]
    if set(predictions) != set(wanted.members):
        raise UserError(
            f"{server}: the server wants predictions of {' and '.join(wanted.members)}, "
            f"found {' and '.join(predictions)}"
        )
    if meta is not None and not wanted.wants_meta:
        raise UserError(f"{server}: the server takes no --meta")
    description = _meta(meta) if wanted.wants_meta else None
    files = {}
    with atomic_file(out) as stream, zipfile.ZipFile(stream, "w") as archive:
        for split, name in wanted.members.items():
            files[name] = wanted.file(annotations, split, predictions[split])
            _add(archive, name, files[name].pieces)
        if description is not None:
            _add(archive, "meta.json", [description])
    return files


def _add(archive: zipfile.ZipFile, name: str, pieces: Iterable[str]) -> None:
    # ZipInfo's own date, 1980, so that the same predictions make the same file.
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(info, "w", force_zip64=True) as member:
        try:
            for piece in pieces:
                member.write(piece.encode())
        except ValueError as error:  # of json.dumps
            raise UserError(f"{name} would hold a number that JSON lacks: {error}") from error


def _meta(path: Path | None) -> str:
    keys = ", ".join(TVQA_META)
    if path is None or not path.is_file():
        missing = "found none" if path is None else f"no file {path}"
        raise UserError(f"TVQA's server wants --meta FILE: JSON with {keys}; {missing}")
    try:
        value = parse_json(read_file(path, MAX_OBJECT))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON with {keys}: {error}") from error
    if not isinstance(value, dict) or set(value) != set(TVQA_META):
        raise UserError(f"{path}: expected an object with exactly {keys}, found {value!r:.80}")
    try:
        return json.dumps(value, allow_nan=False) + "\n"
    except ValueError as error:
        raise UserError(f"{path} holds a number that JSON lacks: {error}") from error
