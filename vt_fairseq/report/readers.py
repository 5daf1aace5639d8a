"""Files of results to rows: one function for each of the things that a model is asked."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vt_fairseq import result_files
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.report.clips import Clips, place
from vt_fairseq.report.folders import PREDICTIONS
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
from vt_fairseq.result_files import is_index, is_numbers, is_text, is_texts, predicted

REFERENCES, SCORES = "references.jsonl", "scores.jsonl"
LARGEST_SCORES = 1 << 29  # bytes of a file that is read for the bars of classes
TOP = 5
MOST_CANDIDATES = 10_000
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


def _may(row: dict, key: str, valid: Callable[[Any], bool], what: str, other: Any = None) -> Any:
    """``row[key]`` if it is ``valid``, ``other`` if the row has none; raises UserError else."""
    return other if row.get(key) is None else result_files.field(row, key, valid, what)


def _is_number(value: Any) -> bool:
    return is_numbers([value])


def _outcome(right: bool) -> str:
    return RIGHT if right else WRONG


# --- captions ------------------------------------------------------------------------------------


def _captions(folder: Path, right: Files, clips: Clips) -> Iterator[Row]:
    said = result_files.read(folder / PREDICTIONS)
    for name in dict.fromkeys([*right, *said]):
        row, clip = said.get(name, {}), clips.get(name)
        captions = list(clip.captions) if clip else []
        texts = _may(right.get(name, {}), "references", is_texts, "a list of texts", captions)
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
            score=_may(row, "score", _is_number, "a number"),
            overlap=close,
            **common,
        )


# --- questions -----------------------------------------------------------------------------------


def _questions(folder: Path, right: Files, clips: Clips) -> Iterator[Row]:
    said = result_files.read(folder / PREDICTIONS)
    for name in dict.fromkeys([*right, *said]):
        row, own, clip = said.get(name, {}), right.get(name, {}), clips.get(name)
        known = clip or ClipRow(name, "")
        result_files.refuse_nan(row)
        what = "the index of a candidate"
        chosen = predicted(said.get(name), "prediction", _is_choice, what)
        answer = _may(own, "answer", _is_choice, what, known.answer)
        scores = _may(row, "scores", is_numbers, "a list of numbers", [])
        texts = _may(own, "candidates", is_texts, "a list of texts", known.candidates)
        texts = _named(texts, max(len(scores), (answer or 0) + 1, (chosen or 0) + 1))
        bars = bars_of(texts, scores if len(scores) == len(texts) else [], answer, chosen)
        common = {
            "id": name,
            "asked": _may(own, "question", is_text, "a text", known.question or ""),
            "references": [] if answer is None else [texts[answer]],
            "clip": place(clip),
            "bars": bars,
        }
        if chosen is None:
            yield Row(outcome=MISSING, **common)
            continue
        yield Row(
            outcome=OPEN if answer is None else _outcome(chosen == answer),
            quality=next((bar.share for bar in bars if bar.right), 0.0),
            said=texts[chosen],
            **common,
        )


def _is_choice(value: Any) -> bool:
    return is_index(value) and value < MOST_CANDIDATES


def _named(texts: Sequence[str], count: int) -> list[str]:
    """At least ``count`` candidates; those that nobody names get their numbers."""
    return [*texts, *(f"candidate {k}" for k in range(len(texts), count))]


# --- classes -------------------------------------------------------------------------------------


def _classes(folder: Path, right: Files, clips: Clips) -> Iterator[Row]:
    said = result_files.read(folder / PREDICTIONS)
    scores = _scores(folder / SCORES)
    for name, row in said.items():
        record = next(scores, {"id": name})
        if record.get("id") != name:
            raise UserError(f"{row['_where']}: {SCORES} has another row there")
        yield _class(row, record, right.get(name, {}), clips)
    for name in right.keys() - said.keys():
        yield _class({"id": name}, {}, right[name], clips)


def _class(row: dict, record: dict, own: dict, clips: Clips) -> Row:
    """One row of labels, or of verbs, nouns and actions."""
    clip, what = clips.get(row["id"]), "the name of a class"
    parts = [part for part in ("verb", "noun") if part in row or part in own]
    names = parts or ["label"]
    known = [_may(own, n, is_text, what, getattr(clip, n) if clip else None) for n in names]
    given = [_may(row, name if parts else "prediction", is_text, what) for name in names]
    texts = [] if None in known else [" ".join(known)]
    texts = _may(own, "references", is_texts, "a list of names", texts)
    common = {"id": row["id"], "references": texts, "clip": place(clip)}
    if None in given:
        return Row(outcome=MISSING, **common)
    head = "action" if len(parts) == 2 else names[0]
    best = _ranking(row, head)
    # The best pair need not be the best verb and the best noun.
    said = best[0] if head == "action" and best else " ".join(given)
    ranks = record.get("ranks") or {}
    # Without vt-score's ranks, which lose ties, the texts tell.
    exact = ranks[head] == 1 if head in ranks else _plain(said) in map(_plain, texts)
    rank = ranks.get(head)
    return Row(
        outcome=_outcome(exact) if texts or head in ranks else OPEN,
        quality=-float(rank or (1 if exact else "inf")),
        said=said,
        captions=_may(record, "captions", is_texts, "a list of texts", []),
        bars=list(_class_bars(best, _class_scores(record, head), texts, said)),
        rank=rank,
        classes={n: (k, g) for n, k, g in zip(names, known, given, strict=True) if k is not None},
        **common,
    )


def _ranking(row: dict, head: str) -> list[str]:
    """The best TOP classes, as texts."""
    found = row.get("ranking" if head == "label" else f"{head}_ranking") or []
    return [name if is_text(name) else " ".join(map(str, name)) for name in found[:TOP]]


def _class_scores(record: dict, head: str) -> list[float]:
    """Scores of vt-score, the highest first: of all classes, or of the best ones."""
    found = record.get("top") or record.get("scores") if head == "label" else record.get(head)
    # [class, score] or [verb, noun, score] where not all classes have one
    numbers = [entry[-1] if isinstance(entry, list) else entry for entry in found or []]
    return sorted(numbers, reverse=True)


def _class_bars(
    best: Sequence[str], scores: Sequence[float], texts: Sequence[str], said: str
) -> Iterator[Bar]:
    shares = softmax(scores)
    for k, name in enumerate(best):
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
    targets = {
        name: result_files.field(row, "target", is_text, "an id") for name, row in right.items()
    }
    rankings = {found.id: found for found in read_rankings(folder / PREDICTIONS, targets)}
    for name in dict.fromkeys([*right, *rankings]):
        clip, found = clips.get(name), rankings.get(name)
        caption = clip.captions[0] if clip and clip.captions else ""
        common = {
            "id": name,
            "asked": _may(right.get(name, {}), "query", is_text, "a text", caption),
            "right_clip": targets.get(name, name),
            "clip": place(clip),
        }
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
