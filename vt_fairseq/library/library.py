"""``Library``: segments of one's own videos, searched and asked without decoding them again.

Scores are log-likelihoods: natural logarithm, summed over a text's tokens and its end.
Shapes: N segments, S source, T video tokens, C width, K texts.
"""

import logging
import math
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch.nn.functional import normalize

from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.probabilities import softmax
from vt_fairseq.candidates.texts import candidate_ids, warn_of_cuts
from vt_fairseq.data.clips import ClipLoader
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.devices import DTYPES
from vt_fairseq.errors import UserError
from vt_fairseq.files.result_files import check_finite
from vt_fairseq.library.indexing import Counts, Indexer, Options, Video
from vt_fairseq.library.origin import checked_settings, record_origin
from vt_fairseq.library.segment_model import (
    CAPTION,
    SegmentModel,
    chunks,
    from_bytes,
    padded,
)
from vt_fairseq.library.store import Segment, Store, damaged
from vt_fairseq.video.members import file_of

logger = logging.getLogger(__name__)

ANSWER = "answer"
SEGMENTS_PER_QUESTION = 64
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Found:
    """A segment and the log-likelihood of a query under it, or its likeness, at most 1."""

    segment: Segment
    score: float


@dataclass(frozen=True)
class Answered:
    """What the model answers for a segment.

    Attributes:
        texts: given candidates, likeliest first, or the one answer in free words.
        scores: the log-likelihood of each, or with ``length_normalize`` its mean per token.
    """

    segment: Segment
    texts: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Softmax of the scores: how the texts compare with one another; sums to 1."""
        return tuple(softmax(self.scores))


class Library:
    """A library and the model that it was made with.

    Threads may share one: their calls take turns. Made by ``VideoTranslate.index`` and
    ``VideoTranslate.library``.
    """

    def __init__(self, store: Store, model: SegmentModel):
        """Raises UserError where ``store`` was made with another model."""
        self._store, self._model, self._turn = store, model, threading.RLock()
        settings = checked_settings(store)
        if settings["model"] != model.fingerprint:
            raise UserError(
                f"{self.path} was made with another model ({settings['model'][:12]}, this one is "
                f"{model.fingerprint[:12]}): name its checkpoint (--path), or index the videos "
                "into a new library with this one"
            )
        self._dtype = DTYPES[settings["dtype"]]

    @classmethod
    def open(cls, path: str | os.PathLike[str], model: SegmentModel) -> Self:
        """The library at ``path``, to be asked; raises UserError where it is another model's."""
        return cls(Store(path), model)

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], model: SegmentModel, checkpoint: Path, window: str
    ) -> Self:
        """The library at ``path``, to be extended; an empty one where there is none.

        Args:
            checkpoint: where the model came from, absolute; written down for later commands.
            window: what is seen of a segment that is longer than in training.

        Raises UserError where it was made with another model, precision or window.
        """
        store = Store(path, writable=True)
        wanted = {"model": model.fingerprint, "dtype": model.dtype, "window": window}
        with store.transaction():
            settings = store.settings()
            if not settings:
                store.set(wanted)
        library = cls(store, model)
        for name, what in (("dtype", "precision"), ("window", "window of long segments")):
            if settings and settings[name] != wanted[name]:
                raise UserError(
                    f"{store.path} was made with the {what} {settings[name]}, now it is "
                    f"{wanted[name]}: take the same, or another library"
                )
        record_origin(store, checkpoint)
        return library

    @property
    def path(self) -> Path:
        """The library's file, absolute."""
        return self._store.path

    def __len__(self) -> int:
        """N, the segments that could be read."""
        with self._turn:
            return self._store.count()

    def close(self) -> None:
        """Close the file."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # what is there

    def captions(self, video: str | os.PathLike[str] | None = None) -> list[Segment]:
        """Every segment, or those of one video, by path and time; unreadable ones with a reason."""
        with self._turn:
            path = None if video is None else os.path.abspath(video)
            return list(self._store.segments(path))

    def segment(self, number: int) -> Segment:
        """One segment by its id; raise UserError where there is none."""
        with self._turn:
            return self._store.segment(number)

    def videos(self) -> list[str]:
        """Absolute paths of all videos."""
        with self._turn:
            return [file.path for file in self._store.files()]

    # extending

    def index(self, videos: Sequence[Video], loader: ClipLoader, options: Options) -> Counts:
        """Add what is new or changed of ``videos``; what could not be read is written down."""
        return Indexer(self._store, self._model, loader, options).run(videos)

    def forget_gone(self) -> list[str]:
        """Take out the videos whose files are no longer there, with all that was seen of them.

        Raises UserError where none is there: then a disk is missing rather than they.
        """
        with self._turn:
            files = list(self._store.files())
            gone = [file for file in files if not os.path.lexists(file_of(file.path))]
            if gone and len(gone) == len(files):
                raise UserError(
                    f"none of the {len(files)} videos of {self.path} is there: is their disk "
                    "mounted? To forget them all, delete the library"
                )
            with self._store.transaction():
                for file in gone:
                    self._store.remove_file(file.id)
            return [file.path for file in gone]

    # asking

    def search(
        self,
        queries: Sequence[str],
        *,
        top: int = 10,
        shortlist: int | None = None,
        length_normalize: bool = False,
    ) -> list[list[Found]]:
        """The ``top`` segments for each query, likeliest first; equal ones by path and time.

        Args:
            shortlist: compare only so many segments, those whose captions share most words with
                the query; None: all, which is exact.
            length_normalize: compare the mean log-likelihood per token.
        """
        if isinstance(queries, str):
            raise UserError(f"expected a list of queries, found the text {queries[:60]!r}")
        with self._turn:
            if shortlist is None:
                return self._search(queries, None, top, length_normalize)
            return [
                self._search([query], self._shortlist(query, shortlist), top, length_normalize)[0]
                for query in queries
            ]

    def like(
        self,
        video: str | os.PathLike[str],
        at: float | None = None,
        *,
        segment: Segment | None = None,
        top: int = 10,
    ) -> list[Found]:
        """The ``top`` segments that look most like a video, by the cosine of the encoder's states.

        A video of the library is not decoded, and what it overlaps is left out.

        Args:
            at: the moment, in seconds; None: the whole video.
            segment: of the video in this library, in place of a moment.

        Raises VideoError where the video cannot be read, and UserError where what is stored of it
        is damaged.
        """
        path = os.path.abspath(video)
        with self._turn:
            own = segment or self._at(path, at)
            if own is None:
                start, end = self._model.around(at)
                states = self._model.states_of(path, start, end)
            else:
                start, end = own.start, own.end
                read = list(self._batches("encoded", [own.id], 1))
                if not read:
                    raise damaged(self._store.path, f"the states of segment {own.id} are lost")
                [(_, [states])] = read
            wanted = self._direction([states])[0]
            ids: list[int] = []
            scores: list[np.ndarray] = []
            for numbers, rows in self._batches("encoded", None, SEGMENTS_PER_QUESTION):
                ids += numbers
                scores.append((self._direction(rows) @ wanted).numpy())
            if not ids:
                return []
            among = {one.id for one in self._store.segments(path) if overlap(one, start, end)}
            found = self._best(ids, np.concatenate(scores), top + len(among))
            return [one for one in found if one.segment.id not in among][:top]

    def ask(
        self,
        question: str,
        candidates: Sequence[str] | None = None,
        *,
        segments: Sequence[Segment] | None = None,
        length_normalize: bool = False,
    ) -> list[Answered]:
        """The answer for each segment, from the video tokens that are stored.

        Args:
            candidates: answers to choose from; None: in free words, by beam search.
            segments: of this library, those to ask about; None: all, by path and time.
            length_normalize: compare candidates by the mean log-likelihood per token.

        Raises UserError for an empty list of candidates.
        """
        if candidates is not None and (isinstance(candidates, str) or not candidates):
            raise UserError(f"expected a list of answers, found {candidates!r:.60}")
        with self._turn:
            asked = list(self._store.segments()) if segments is None else list(segments)
            asked = [one for one in asked if one.error is None]
            prompt = self._model.prompt(ANSWER)
            answers: list[Answered] = []
            for batch in chunks(iter(asked), SEGMENTS_PER_QUESTION):
                tokens = self._video_tokens(batch)
                own = [one for one in batch if one.id in tokens]
                if own:
                    inputs = self._model.inputs(
                        torch.stack([tokens[one.id] for one in own]).to(
                            self._model.device, self._model.torch_dtype
                        ),
                        *(prompt, [one.context for one in own], question),
                    )
                    texts = self._answers(inputs, prompt, candidates, length_normalize)
                    pairs = zip(own, texts, strict=True)
                    answers += [Answered(one, *answer) for one, answer in pairs]
            return answers

    # how

    def _answers(
        self,
        inputs: dict[str, torch.Tensor],
        prompt: Prompt,
        candidates: Sequence[str] | None,
        length_normalize: bool,
    ) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
        """Texts and scores for each row of ``inputs``, best first."""
        if candidates is None:
            return [((text,), (score,)) for text, score in self._model.texts(inputs, prompt)]
        encoded = self._model.encode(inputs)
        tree = self._tree(prompt, candidates)
        found = []
        for scores in self._model.log_likelihoods(encoded, tree, length_normalize):
            check_finite(scores, "of this library")
            order = np.argsort(-scores, kind="stable").tolist()
            found.append((tuple(candidates[k] for k in order), tuple(scores[order].tolist())))
        return found

    def _video_tokens(self, segments: Sequence[Segment]) -> dict[int, torch.Tensor]:
        """The video tokens (T, C) of segments by their ids, without damaged ones."""
        numbers = [one.id for one in segments]
        batches = self._batches("video", numbers, SEGMENTS_PER_QUESTION)
        return {one: states for ids, rows in batches for one, states in zip(ids, rows, strict=True)}

    def _tree(self, prompt: Prompt, texts: Sequence[str]) -> PrefixTree:
        """The texts as the decoder scores them; the log says where they are cut."""
        ids, cut = candidate_ids(self._model.task.tokenizer, prompt, texts)
        warn_of_cuts(cut, len(ids), prompt)
        return PrefixTree.build(ids)

    def _search(
        self,
        queries: Sequence[str],
        numbers: Sequence[int] | None,
        top: int,
        length_normalize: bool,
    ) -> list[list[Found]]:
        """The best of all segments, or of those with ``numbers``, by exact likelihood."""
        tree = self._tree(self._model.prompt(CAPTION), queries)
        own: list[int] = []
        scores: list[np.ndarray] = []
        for ids, states in self._batches("encoded", numbers, self._model.segments_at_once(tree)):
            encoded = padded(states, self._model.device, self._model.torch_dtype)
            values = self._model.log_likelihoods(encoded, tree, length_normalize)
            finite = np.isfinite(values).all(axis=1)
            self._name_damaged([one for one, good in zip(ids, finite, strict=True) if not good])
            own += [one for one, good in zip(ids, finite, strict=True) if good]
            scores.append(values[finite])
        if not own:
            return [[] for _ in queries]
        return [self._best(own, column, top) for column in np.concatenate(scores).T]

    def _best(self, ids: Sequence[int], scores: np.ndarray, top: int) -> list[Found]:
        """The ``top`` segments with the highest of the scores (N,)."""
        least = np.partition(scores, -top)[-top] if top < len(scores) else -np.inf
        found = [
            Found(self._store.segment(ids[k]), float(scores[k]))
            for k in np.flatnonzero(scores >= least).tolist()
        ]
        found.sort(key=lambda one: (-one.score, one.segment.path, one.segment.start))
        return found[:top]

    def _at(self, path: str, at: float | None) -> Segment | None:
        """The shortest segment around a moment, or the whole video; None where none is stored."""
        own = [one for one in self._store.segments(path) if one.error is None]
        if at is None:
            return next((one for one in own if one.asked == (None, None)), None)
        around = [one for one in own if one.start <= at < (one.end or math.inf)]
        return min(around, key=seconds, default=None)

    def _direction(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of length 1: the states of B segments before their context, one after the other."""
        count = self._model.states_without_context
        return normalize(torch.stack([row[:count].float().flatten() for row in rows]), dim=1)

    def _shortlist(self, query: str, most: int) -> list[int]:
        """Ids of the segments whose captions share most with the query."""
        return self._store.with_words(WORD.findall(query), most)

    def _batches(
        self, column: str, numbers: Iterable[int] | None, size: int
    ) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Ids and stored states, ``size`` segments at once; damaged ones are named and left out."""
        for rows in chunks(self._store.states(column, numbers), size):
            read = [(one, from_bytes(data, self._model.width, self._dtype)) for one, data in rows]
            whole = [(one, s) for one, s in read if s is not None and self._fits(column, s)]
            self._name_damaged(sorted({one for one, _ in rows} - {one for one, _ in whole}))
            if whole:
                yield [one for one, _ in whole], [states for _, states in whole]

    def _fits(self, column: str, states: torch.Tensor) -> bool:
        """Whether there are as many states as this model makes of a segment."""
        if column == "video":
            return len(states) == self._model.num_tokens
        return self._model.states_without_context <= len(states) <= self._model.max_source_tokens

    def _name_damaged(self, ids: Sequence[int]) -> None:
        for number in ids:
            logger.warning(
                "%s: the states of segment %d are damaged, it is left out", self.path, number
            )


def seconds(segment: Segment) -> float:
    """How long it is."""
    return math.inf if segment.end is None else segment.end - segment.start


def overlap(segment: Segment, start: float | None, end: float | None) -> bool:
    """Whether a segment has a moment in [start, end)."""
    before = segment.end is not None and segment.end <= (start or 0.0)
    after = end is not None and end <= segment.start
    return not before and not after
