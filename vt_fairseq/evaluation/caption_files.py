"""Captions in other people's files, read as rows of ``result_files``: ``id`` with ``prediction``
or ``references``.

- jsonl: our rows, or TVC's (``clip_id``, ``descs``; of a prediction the first counts);
- .json: COCO's results (a list of ``image_id`` and ``caption``) or annotations (``annotations``,
  MSR-VTT's ``sentences``; one caption per entry, or a list of them);
- .txt: one caption per line; several files of references have the same lines.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from vt_fairseq.errors import UserError
from vt_fairseq.files.bounded_files import MAX_DOCUMENT, parse_json, read_file
from vt_fairseq.files.result_files import (
    JsonRow,
    PairedRows,
    by_id,
    field,
    is_text,
    is_texts,
    objects,
    pair,
)

_ID_KEYS = ("image_id", "video_id", "clip_id", "video", "id")
_LIST_KEYS = ("annotations", "sentences")


def read_pairs(predictions: Path, references: Sequence[Path]) -> PairedRows:
    """Every reference with its prediction or None; text files must have the same lines."""
    rows, reference_rows = read_predictions(predictions), read_references(references)
    if predictions.suffix == ".txt" and len(rows) != len(reference_rows):
        raise UserError(
            f"{predictions} has {len(rows)} lines, but {references[0]} {len(reference_rows)}"
        )
    return pair(rows, reference_rows, str(references[0]))


def read_predictions(path: Path) -> dict[str, JsonRow]:
    """{id: row with ``prediction``} from any of the formats."""
    if path.suffix == ".txt":
        return by_id(row | {"prediction": text} for row, text in _lines(path))
    if path.suffix == ".json":
        return by_id(
            row | {"prediction": field(row, "caption", is_text, "a text")} for row in _coco(path)
        )
    return by_id(map(_tvc, objects(path)))


def read_references(paths: Sequence[Path]) -> dict[str, JsonRow]:
    """{id: row with ``references``} from any of the formats; several files only of text."""
    if paths[0].suffix == ".txt":
        return _parallel_lines(paths)
    if len(paths) > 1:
        raise UserError(
            f"several --references must be text files, one caption per line: {paths[1]}"
        )
    if paths[0].suffix == ".json":
        return _coco_references(paths[0])
    return by_id(map(_tvc, objects(paths[0])))


def plain_ascii(text: str) -> str:
    """``text`` with a blank for every character that is not ASCII, as TVC's scorer has it."""
    return "".join(c if ord(c) < 128 else " " for c in text)


# --- text ----------------------------------------------------------------------------------------


def _lines(path: Path) -> list[tuple[JsonRow, str]]:
    try:
        text = read_file(path, MAX_DOCUMENT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text: {error}") from error
    lines = text.removesuffix("\n").split("\n") if text else []
    return [
        ({"id": str(number), "_where": f"{path} line {number}"}, line.strip())
        for number, line in enumerate(lines, 1)
    ]


def _parallel_lines(paths: Sequence[Path]) -> dict[str, JsonRow]:
    files = [_lines(path) for path in paths]
    for path, lines in zip(paths, files, strict=True):
        if len(lines) != len(files[0]):
            raise UserError(f"{path} has {len(lines)} lines, but {paths[0]} has {len(files[0])}")
    return by_id(
        same[0][0] | {"references": [text for _, text in same]} for same in zip(*files, strict=True)
    )


# --- COCO ----------------------------------------------------------------------------------------


def _coco(path: Path) -> Iterator[JsonRow]:
    """Rows with ``id`` and ``caption``."""
    for number, entry in enumerate(_entries(path), 1):
        where = f"{path} entry {number}"
        names = [entry[key] for key in _ID_KEYS if key in entry] if isinstance(entry, dict) else []
        if not names or isinstance(names[0], bool) or not isinstance(names[0], int | str):
            keys = ", ".join(_ID_KEYS)
            raise UserError(f"{where}: expected an object with one of {keys}, found {entry!r:.60}")
        yield {"id": str(names[0]), "caption": entry.get("caption"), "_where": where}


def _entries(path: Path) -> list:
    try:
        entries = parse_json(read_file(path, MAX_DOCUMENT).decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON: {error}") from error
    if isinstance(entries, dict):
        entries = next((entries[key] for key in _LIST_KEYS if key in entries), None)
    if not isinstance(entries, list):
        raise UserError(
            f"{path}: expected a list of captions (COCO's results), or an object with "
            f"{' or '.join(_LIST_KEYS)}; if it is a jsonl file, name it .jsonl"
        )
    return entries


def _coco_references(path: Path) -> dict[str, JsonRow]:
    rows: dict[str, JsonRow] = {}
    what = "a text or a list of texts"
    for row in _coco(path):
        caption = field(row, "caption", lambda v: is_text(v) or is_texts(v), what)
        texts = [caption] if isinstance(caption, str) else caption
        rows.setdefault(row["id"], row | {"references": []})["references"].extend(texts)
    return rows


# --- TVC -----------------------------------------------------------------------------------------


def _tvc(row: JsonRow) -> JsonRow:
    """The row of a moment, with its descriptions as ``prediction``, the first, and ``references``;
    another row as it is."""
    if "descs" not in row:
        return row
    clip = row.get("clip_id")
    if isinstance(clip, bool) or not isinstance(clip, int):
        raise UserError(f"{row['_where']}: expected 'clip_id': an integer, found {clip!r:.60}")
    entries = row["descs"] if isinstance(row["descs"], list) else []
    texts = [entry.get("desc") if isinstance(entry, dict) else None for entry in entries]
    if not is_texts(texts):
        raise UserError(
            f"{row['_where']}: expected 'descs': a list of objects with 'desc', "
            f"found {row['descs']!r:.60}"
        )
    where = {"id": str(clip), "_where": row["_where"]}
    return where | {"prediction": texts[0], "references": texts}
