"""Files of results to rows: one function for each of the things that a model is asked."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vt_fairseq import result_files
from vt_fairseq.errors import UserError
from vt_fairseq.report.clips import Clips, place
from vt_fairseq.report.found import PREDICTIONS
from vt_fairseq.report.rankings import read_rankings
from vt_fairseq.report.rows import (
    MISSING,
    OPEN,
    RIGHT,
    WRONG,
    Bar,
    Row,
    bars_of,
    overlap,
    softmax,
)
from vt_fairseq.result_files import is_index, is_numbers, is_text, predicted

REFERENCES, SCORES = "references.jsonl", "scores.jsonl"
LARGEST_SCORES = 1 << 29  # bytes of a file that is read for the bars of classes
TOP = 5
Files = dict[str, dict[str, Any]]  # rows by id
Reader = Callable[[Path, Files, Clips], Iterator[Row]]


def kind_of(folder: Path, settings: dict[str, Any]) -> str:
    """``captions``, ``vqa``, ``classify`` or ``retrieval``."""
    kind = settings.get("kind")
    if kind in READERS:
        return kind
    said, right = _first(folder / PREDICTIONS), _first(folder / REFERENCES)
    if "ranking" in said and ("target" in right or "prediction" not in said):
        return "retrieval"
    if "answer" in right or is_index(said.get("prediction")):
        return "vqa"
    classes = {"verb", "noun"} & said.keys() or "label" in right or "ranking" in said
    return "classify" if classes else "captions"


def read_references(folder: Path) -> Files:
    """references.jsonl, or nothing where the manifest has the references."""
    path = folder / REFERENCES
    return result_files.read(path) if path.is_file() else {}


def _first(path: Path) -> dict[str, Any]:
    return next(result_files.objects(path), {}) if path.is_file() else {}


# --- captions ------------------------------------------------------------------------------------


def _captions(folder: Path, right: Files, clips: Clips) -> Iterator[Row]:
    said = result_files.read(folder / PREDICTIONS)
    for name in dict.fromkeys([*right, *said]):
        row, clip, own = said.get(name, {}), clips.get(name), right.get(name, {})
        texts = own.get("references") or (list(clip.captions) if clip else [])
        text = predicted(said.get(name), "prediction", is_text, "a text")
        common = {"id": name, "references": texts, "clip": place(clip)}
        if text is None or row.get("missing"):
            yield Row(outcome=MISSING, **common)
            continue
        exact = text.split() in [other.split() for other in texts]
        close = overlap(text, texts) if texts else None
        yield Row(
            outcome=_outcome(exact) if texts else OPEN,
            quality=close or 0.0,
            said=text,
            score=row.get("score"),
            overlap=close,
            **common,
        )


def _outcome(right: bool) -> str:
    return RIGHT if right else WRONG


# --- questions -----------------------------------------------------------------------------------


def _questions(folder: Path, right: Files, clips: Clips) -> Iterator[Row]:
    said = result_files.read(folder / PREDICTIONS)
    for name in dict.fromkeys([*right, *said]):
        row, clip, own = said.get(name, {}), clips.get(name), right.get(name, {})
        chosen = predicted(said.get(name), "prediction", is_index, "the index of a candidate")
        answer = own.get("answer", clip.answer if clip else None)
        scores = row.get("scores") if is_numbers(row.get("scores")) else []
        texts = own.get("candidates") or (list(clip.candidates) if clip else [])
        known = max(len(scores), len(texts), (answer or 0) + 1, (chosen or 0) + 1)
        texts += [f"candidate {k}" for k in range(len(texts), known)]
        bars = bars_of(texts, scores if len(scores) == known else [], answer, chosen)
        asked = own.get("question") or (clip.question if clip else "") or ""
        common = {"id": name, "asked": asked, "clip": place(clip)}
        common["references"] = [] if answer is None else [texts[answer]]
        if chosen is None:
            yield Row(outcome=MISSING, bars=bars, **common)
            continue
        yield Row(
            outcome=OPEN if answer is None else _outcome(chosen == answer),
            quality=next((bar.share for bar in bars if bar.right), 0.0),
            said=texts[chosen],
            bars=bars,
            **common,
        )


# --- classes -------------------------------------------------------------------------------------


def _classes(folder: Path, right: Files, clips: Clips) -> Iterator[Row]:
    scores = _scores(folder / SCORES)
    seen = set()
    for row in result_files.by_id(result_files.objects(folder / PREDICTIONS)).values():
        seen.add(row["id"])
        record = next(scores, {"id": row["id"]})
        if record["id"] != row["id"]:
            raise UserError(
                f"{row['_where']}: {SCORES} has another row there, {record['id']!r:.60}"
            )
        yield _class(row, record, right.get(row["id"], {}), clips)
    for name, own in right.items():
        if name not in seen:
            yield _class({"id": name}, {}, own, clips)


def _class(row: dict, record: dict, own: dict, clips: Clips) -> Row:
    """One row of labels, or of verbs, nouns and actions."""
    clip = clips.get(row["id"])
    parts = [part for part in ("verb", "noun") if part in row or part in own]
    names = parts or ["label"]
    known = [own.get(name, getattr(clip, name) if clip else None) for name in names]
    given = [row.get(name if parts else "prediction") for name in names]
    texts = own.get("references") or ([] if None in known else [" ".join(known)])
    common = {"id": row["id"], "references": texts, "clip": place(clip)}
    if None in given:
        return Row(outcome=MISSING, **common)
    said = " ".join(given)
    head = "action" if len(parts) == 2 else names[0]
    ranks = record.get("ranks", {})
    rank = ranks.get(head)
    # Without vt-score's ranks, which lose ties, the texts tell.
    exact = rank == 1 if head in ranks else _plain(said) in map(_plain, texts)
    return Row(
        outcome=_outcome(exact) if texts or head in ranks else OPEN,
        quality=-(rank or (0 if exact else len(texts) + 1)),
        said=said,
        bars=list(_class_bars(row, record, head, texts, said)),
        rank=rank,
        classes={n: (k, g) for n, k, g in zip(names, known, given, strict=True) if k is not None},
        **common,
    )


def _class_bars(row: dict, record: dict, head: str, texts: list[str], said: str) -> Iterator[Bar]:
    """The best TOP candidates with their scores."""
    ranking = row.get("ranking" if head == "label" else f"{head}_ranking") or []
    names = [name if isinstance(name, str) else " ".join(name) for name in ranking[:TOP]]
    scored = record.get("top") if head == "label" and "top" in record else record.get(head)
    scored = record.get("scores") if scored is None and head == "label" else scored
    if scored and isinstance(scored[0], list):  # [class, score] or [verb, noun, score]
        scored = [entry[-1] for entry in scored]
    scores = sorted(scored or [], reverse=True)
    shares = softmax(scores)
    for k, name in enumerate(names):
        score, share = (scores[k], shares[k]) if k < len(scores) else (None, 0.0)
        yield Bar(name, score, share, name in texts, name == said)


def _scores(path: Path) -> Iterator[dict[str, Any]]:
    """The records of vt-score, or nothing where there are none or too many to read."""
    if path.is_file() and path.stat().st_size <= LARGEST_SCORES:
        yield from result_files.objects(path)


def _plain(text: str) -> str:
    return text.strip().casefold()


# --- retrieval -----------------------------------------------------------------------------------


def _retrieval(folder: Path, right: Files, clips: Clips) -> Iterator[Row]:
    targets = {name: row["target"] for name, row in right.items() if is_text(row.get("target"))}
    rankings = {found.id: found for found in read_rankings(folder / PREDICTIONS, targets)}
    for name in dict.fromkeys([*right, *rankings]):
        clip, found = clips.get(name), rankings.get(name)
        asked = right.get(name, {}).get("query") or (
            clip.captions[0] if clip and clip.captions else ""
        )
        common = {"id": name, "asked": asked, "clip": place(clip)}
        common["right_clip"] = targets.get(name, name)
        if found is None or not found.top:
            yield Row(outcome=MISSING, **common)
            continue
        yield Row(
            outcome=_outcome(found.rank == 1),
            quality=-float(found.rank or "inf"),
            rank=found.rank,
            top=found.top,
            **common,
        )


READERS: dict[str, Reader] = {
    "captions": _captions,
    "vqa": _questions,
    "classify": _classes,
    "retrieval": _retrieval,
}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object in a file, {} where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object, found {found!r:.60}")
    return found
