"""Files of results to rows: one reader for each kind of thing that a model is asked."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.errors import UserError
from vt_fairseq.files import result_files
from vt_fairseq.files.result_files import (
    JsonRow,
    is_index,
    is_numbers,
    is_ranking,
    is_text,
    is_texts,
    predicted,
)
from vt_fairseq.metrics.captions import word_f1
from vt_fairseq.report.rows import (
    OPEN,
    RIGHT,
    WRONG,
    Bar,
    ReportRow,
    bars_of,
    softmax,
)

PREDICTIONS, REFERENCES, SCORES = "predictions.jsonl", "references.jsonl", "scores.jsonl"
LARGEST_SCORES = 1 << 29  # bytes of a scores.jsonl that is read for the bars of classes
TOP = 5  # of a ranking, shown
MOST_CANDIDATES = 10_000
LONG_LINE = 1 << 14  # bytes of a ranking that is searched rather than parsed
References = Mapping[str, JsonRow]  # by id
Clips = Mapping[str, ClipRow]  # by id
_Prediction = TypeVar("_Prediction")


def kind_of(folder: Path, settings: Mapping[str, Any]) -> str:
    """``captions``, ``vqa``, ``classify`` or ``retrieval``."""
    kind = settings.get("kind")
    if isinstance(kind, str) and kind in READERS:
        return kind
    prediction, reference = _first(folder / PREDICTIONS), _first(folder / REFERENCES)
    if "ranking" in prediction and ("target" in reference or "prediction" not in prediction):
        return "retrieval"
    if "answer" in reference or is_index(prediction.get("prediction")):
        return "vqa"
    classes = {"verb", "noun"} & prediction.keys() or "label" in reference
    return "classify" if classes or "ranking" in prediction else "captions"


def _first(path: Path) -> JsonRow:
    return next(result_files.objects(path), {}) if path.is_file() else {}


def _joined(
    predictions: Mapping[str, _Prediction], references: References, clips: Clips
) -> Iterator[tuple[str, _Prediction | None, JsonRow, ClipRow | None]]:
    """(id, its prediction, its reference or {}, its clip) of every id in either file."""
    for name in dict.fromkeys([*predictions, *references]):
        yield name, predictions.get(name), references.get(name, {}), clips.get(name)


def _optional(
    row: JsonRow, key: str, valid: Callable[[Any], bool], what: str, default: Any = None
) -> Any:
    """``row[key]``, or ``default`` where the row has none; raises UserError unless ``valid``."""
    return default if row.get(key) is None else result_files.field(row, key, valid, what)


def _outcome(correct: bool) -> str:
    return RIGHT if correct else WRONG


def _segment(clip: ClipRow | None) -> str:
    """Which part of which video, for people."""
    if clip is None or (clip.start is None and clip.end is None):
        return clip.video if clip else ""
    end = "end" if clip.end is None else f"{clip.end:g}"
    return f"{clip.video}, {clip.start or 0:g} to {end} s"


def _captions(folder: Path, references: References, clips: Clips) -> Iterator[ReportRow]:
    predictions = result_files.read(folder / PREDICTIONS)
    for name, prediction, reference, clip in _joined(predictions, references, clips):
        captions = list(clip.captions) if clip else []
        texts = _optional(reference, "references", is_texts, "a list of texts", captions)
        text = predicted(prediction, "prediction", is_text, "a text")
        row = ReportRow(name, references=texts, clip=_segment(clip))
        if prediction and text is not None and not prediction.get("missing"):
            exact = text.split() in [other.split() for other in texts]
            words = text.lower().split()
            shared = [word_f1(words, other.lower().split()) for other in texts]
            close = max(shared, default=None)
            row = replace(
                row,
                outcome=_outcome(exact) if texts else OPEN,
                quality=close or 0.0,
                prediction=text,
                score=_optional(prediction, "score", lambda s: is_numbers([s]), "a number"),
                overlap=close,
            )
        yield row


# --- questions -----------------------------------------------------------------------------------


def _questions(folder: Path, references: References, clips: Clips) -> Iterator[ReportRow]:
    predictions, what = result_files.read(folder / PREDICTIONS), "the index of a candidate"
    for name, prediction, reference, clip in _joined(predictions, references, clips):
        known = clip or ClipRow(name, "")
        result_files.refuse_nan(prediction or {})
        chosen = predicted(prediction, "prediction", _is_choice, what)
        answer = _optional(reference, "answer", _is_choice, what, known.answer)
        scores = _optional(prediction or {}, "scores", is_numbers, "a list of numbers", [])
        texts = _optional(reference, "candidates", is_texts, "a list of texts", known.candidates)
        count = max(len(scores), (answer or 0) + 1, (chosen or 0) + 1)
        # Candidates that nobody names get their numbers.
        texts = [*texts, *(f"candidate {k}" for k in range(len(texts), count))]
        bars = bars_of(texts, scores if len(scores) == len(texts) else [], answer, chosen)
        row = ReportRow(
            name,
            asked=_optional(reference, "question", is_text, "a text", known.question or ""),
            references=[] if answer is None else [texts[answer]],
            clip=_segment(clip),
            bars=bars,
        )
        if chosen is not None:
            row = replace(
                row,
                outcome=OPEN if answer is None else _outcome(chosen == answer),
                quality=next((bar.share for bar in bars if bar.correct), 0.0),
                prediction=texts[chosen],
            )
        yield row


def _is_choice(value: Any) -> bool:
    return is_index(value) and value < MOST_CANDIDATES


# --- classes -------------------------------------------------------------------------------------


def _classes(folder: Path, references: References, clips: Clips) -> Iterator[ReportRow]:
    predictions = result_files.read(folder / PREDICTIONS)
    records = _scores(folder / SCORES)
    for name, prediction, reference, clip in _joined(predictions, references, clips):
        record: JsonRow = next(records, {"id": name}) if prediction else {}
        if prediction and record.get("id") != name:
            raise UserError(f"{prediction['_where']}: {SCORES} has another row there")
        yield _class(name, prediction or {}, record, reference, clip)


def _scores(path: Path) -> Iterator[JsonRow]:
    """The records of vt-score, or nothing where there are none or too many to read."""
    if path.is_file() and path.stat().st_size <= LARGEST_SCORES:
        yield from result_files.objects(path)


def _class(
    name: str, prediction: JsonRow, record: JsonRow, reference: JsonRow, clip: ClipRow | None
) -> ReportRow:
    """A row of labels, or of verbs, nouns and actions; ``record`` is vt-score's, or empty."""
    parts: list[str] = [
        part for part in ("verb", "noun") if part in prediction or part in reference
    ]
    kinds: list[str] = parts or ["label"]
    what = "the name of a class"
    known = [
        _optional(reference, kind, is_text, what, getattr(clip, kind) if clip else None)
        for kind in kinds
    ]
    given = [_optional(prediction, k if parts else "prediction", is_text, what) for k in kinds]
    texts = [] if None in known else [" ".join(known)]
    texts = _optional(reference, "references", is_texts, "a list of names", texts)
    row = ReportRow(name, references=texts, clip=_segment(clip))
    if None in given:
        return row
    head = "action" if len(parts) == 2 else kinds[0]
    best = _ranked(prediction, "ranking" if head == "label" else f"{head}_ranking")
    # The best pair need not be the best verb and the best noun.
    text = best[0] if head == "action" and best else " ".join(given)
    ranks = _optional(record, "ranks", _are_ranks, "ranks from 1, or null", {})
    rank, ranked = ranks.get(head), head in ranks
    # Without vt-score's ranks, which lose ties, the texts tell.
    correct = rank == 1 if ranked else _plain(text) in map(_plain, texts)
    return replace(
        row,
        outcome=_outcome(correct) if texts or ranked else OPEN,
        quality=-float(rank or (1 if correct else "inf")),
        prediction=text,
        captions=_optional(record, "captions", is_texts, "a list of texts", []),
        bars=list(_class_bars(best, _class_scores(record, head), texts, text)),
        rank=rank,
        classes={c: (k, g) for c, k, g in zip(kinds, known, given, strict=True) if k is not None},
    )


def _are_ranks(value: Any) -> bool:
    return isinstance(value, dict) and all(
        rank is None or (is_index(rank) and is_numbers([rank])) for rank in value.values()
    )


def _ranked(prediction: JsonRow, key: str) -> list[str]:
    """The first TOP classes, as texts; an action is a list of verb and noun."""

    def are_classes(value: Any) -> bool:
        return isinstance(value, list) and all(is_text(v) or is_texts(v) for v in value)

    classes = _optional(prediction, key, are_classes, "a list of classes", [])
    return [name if is_text(name) else " ".join(name) for name in classes[:TOP]]


def _class_scores(record: JsonRow, head: str) -> list[float]:
    """Scores of vt-score, the highest first: of all classes, or of the best ones."""
    key = head if head != "label" else "top" if record.get("top") else "scores"

    # [class, score] or [verb, noun, score] where not all classes have one
    def values(scores: Any) -> list[Any]:
        return [entry[-1] if isinstance(entry, list) and entry else entry for entry in scores]

    def are_scores(value: Any) -> bool:
        return isinstance(value, list) and is_numbers(values(value))

    scores = values(_optional(record, key, are_scores, "a list of scores", []))
    return sorted(map(float, scores), reverse=True)


def _class_bars(
    best: Sequence[str], scores: Sequence[float], texts: Sequence[str], prediction: str
) -> Iterator[Bar]:
    shares = softmax(scores)
    for k, name in enumerate(best):
        score, share = (scores[k], shares[k]) if k < len(scores) else (None, 0.0)
        yield Bar(name, score, share, name in texts, name == prediction)


def _plain(text: str) -> str:
    return text.strip().casefold()


# --- retrieval -----------------------------------------------------------------------------------


def _retrieval(folder: Path, references: References, clips: Clips) -> Iterator[ReportRow]:
    targets = {
        name: result_files.field(row, "target", is_text, "an id")
        for name, row in references.items()
    }
    rankings = {query.id: query for query in read_rankings(folder / PREDICTIONS, targets)}
    for name, query, reference, clip in _joined(rankings, references, clips):
        caption = clip.captions[0] if clip and clip.captions else ""
        row = ReportRow(
            name,
            asked=_optional(reference, "query", is_text, "a text", caption),
            target=targets.get(name, name),
            clip=_segment(clip),
        )
        if query and query.top:
            row = replace(
                row,
                outcome=_outcome(query.rank == 1),
                quality=-float(query.rank or "inf"),
                rank=query.rank,
                top=query.top,
            )
        yield row


class QueryRanking(NamedTuple):
    """The first TOP ids, and the rank of the target from 1; None where it is not ranked."""

    id: str
    top: list[str]
    rank: int | None


_HEAD = re.compile(rb'\{"id": "([^"]*)", "ranking": \["')
_BETWEEN = b'", "'


def read_rankings(path: Path, targets: Mapping[str, str]) -> Iterator[QueryRanking]:
    """The ranking of every line; the target of an id that is not in ``targets`` is the id itself.

    A ranking names every clip of the split, so those of 10,000 captions are more than a gigabyte. A
    long line as ``vt-score`` writes it is therefore searched and not parsed.
    """
    for number, line in result_files.jsonl_lines(path):
        searchable = len(line) > LONG_LINE and b"\\" not in line
        where = f"{path} line {number}"
        if searchable and (head := _HEAD.match(line)):
            yield _searched(line, head, targets, where)
        else:
            yield _parsed(line, targets, where)


def _searched(
    line: bytes, head: re.Match[bytes], targets: Mapping[str, str], where: str
) -> QueryRanking:
    """Without a backslash a quotation mark always ends a text, so marks can be counted."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: expected a JSON object: {error}") from error
    name = head[1].decode()
    end, top = head.end(), []
    for _ in range(TOP):
        stop = line.find(b'"', end)
        top.append(line[end:stop].decode())
        if not line.startswith(_BETWEEN, stop):
            break
        end = stop + len(_BETWEEN)
    target = b'"' + targets.get(name, name).encode() + b'"'
    at = line.find(target, head.end() - 1)
    rank = None if at < 0 else line.count(_BETWEEN, head.end(), at + 1) + 1
    return QueryRanking(name, top, rank)


def _parsed(line: bytes, targets: Mapping[str, str], where: str) -> QueryRanking:
    try:
        row = {**result_files.parse_object(line), "_where": where}
        ranking = row["ranking"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{where}: expected an object with id and ranking: {error!r}") from error
    name = result_files.field(row, "id", is_text, "a text")
    if ranking is not None and not is_ranking(ranking):
        raise UserError(f"{where}: expected 'ranking': distinct ids, best first")
    ranking, target = ranking or [], targets.get(name, name)
    rank = ranking.index(target) + 1 if target in ranking else None
    return QueryRanking(name, ranking[:TOP], rank)


READERS: dict[str, Callable[[Path, References, Clips], Iterator[ReportRow]]] = {
    "captions": _captions,
    "vqa": _questions,
    "classify": _classes,
    "retrieval": _retrieval,
}
