"""A trained model for one's own videos: ``VideoTranslate``.

The path from file to text is that of ``fairseq-generate`` and ``vt-score``: the task's dataset,
generator and scorer.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.dataclass.configs import GenerationConfig

from vt_fairseq.candidates.likelihood import DEFAULT_MAX_NODES, score_candidates
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.texts import candidate_ids, warn_of_cuts
from vt_fairseq.data.data_workers import WatchedDataLoader
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.data.tokenizer import PAD
from vt_fairseq.data.unknown_text import UnknownText
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.files.result_files import check_finite
from vt_fairseq.inference.inputs import OwnLoader, OwnVideos, Seconds, VideoInput, own_videos
from vt_fairseq.inference.loading import Loaded, encode, open_checkpoint, to_device
from vt_fairseq.inference.outputs import Caption, Choice, Encoding, Ranked, Text
from vt_fairseq.library.indexing import Options as IndexOptions
from vt_fairseq.library.indexing import Video, whole
from vt_fairseq.library.library import Library
from vt_fairseq.library.segment_model import SegmentModel
from vt_fairseq.video.frame_sampling import regular_segments, window_position

logger = logging.getLogger(__name__)

METHODS = ("beam", "greedy", "topk")
Videos = VideoInput | Sequence[VideoInput]
Texts = str | Sequence[str] | None


@dataclass(frozen=True)
class Decoding:
    """How texts are generated.

    Attributes:
        method: one of METHODS; "topk" samples among the k likeliest next tokens.
        beam: beams of "beam" (paper: 5 for TVQA).
        topk: k of "topk" (paper: 5).
        seed: of "topk". What is drawn depends on the batch as well.
        num_candidates: texts per clip, best first.
        max_tokens: longest text; None: as long as the action's targets were in training.
    """

    method: str = "beam"
    beam: int = 5
    topk: int = 5
    seed: int = 1
    num_candidates: int = 1
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(f"decoding is one of {', '.join(METHODS)}, found {self.method!r}")
        counts = (self.beam, self.topk, self.num_candidates, self.max_tokens)
        if not all(count is None or count >= 1 for count in counts):
            raise UserError(f"numbers of beams, tokens and candidates must be positive: {self}")
        if self.method == "greedy" and self.num_candidates > 1:
            raise UserError("greedy decoding gives one candidate; take beam or topk for more")

    def config(self, prompt: Prompt) -> GenerationConfig:
        """The options of ``fairseq-generate`` that mean the same."""
        sampling = self.method == "topk"
        beam = max(self.beam, self.num_candidates) if self.method == "beam" else self.num_candidates
        return GenerationConfig(
            beam=beam,
            nbest=self.num_candidates,
            max_len_b=self.max_tokens or prompt.max_target_tokens,
            sampling=sampling,
            sampling_topk=self.topk if sampling else -1,
        )


class VideoTranslate:
    """A trained model that captions, answers, classifies and ranks videos.

    Every method takes one video or a list. A video is a path (of a file, or of a folder of jpg or
    png frames) or a whole clip's frames, numpy or torch, (F, H, W, 3) uint8 RGB. For paths,
    ``start`` and ``end`` name a segment in seconds; of one that is longer than what the model was
    trained on (``--max-seconds``) it sees the middle. ``start``, ``end``, ``question`` and
    ``context`` are one value for all videos or a list with one for each. One video gives one
    result, a list gives a list in the same order.

    Raises VideoError where a video cannot be read, unless ``on_error`` is set; UserError for
    arguments that are not as described, and where a score is not a finite number.

    Attributes:
        batch_size: clips at once.
        max_nodes: beginnings of texts that are scored at once, over all clips of a batch.
        num_workers: processes that decode; with 0, and for a single batch, this process does.
        on_error: called with (index in the list, reason) for a video that cannot be read, whose
            result is None then.
    """

    def __init__(self, loaded: Loaded):
        self.loaded = loaded
        self.batch_size = 8
        self.max_nodes = DEFAULT_MAX_NODES
        self.num_workers = 0
        self.on_error: Callable[[int, str], None] | None = None
        self._warnings: set[str] = set()

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        vocabulary: str | os.PathLike[str] | None = None,
        test_window: str | None = None,
        follow_links: bool = False,
        cuda_graphs: bool = False,
    ) -> "VideoTranslate":
        """Load a checkpoint; no code in it is run.

        Args:
            path: what ``fairseq-train`` or ``vt-init`` wrote.
            device: "cpu", "cuda", "mps" ...; None: the GPU where there is one, else the CPU.
            dtype: torch.float32, torch.bfloat16 or torch.float16.
            vocabulary: the sentencepiece model, for checkpoints that hold none.
            test_window: of segments longer than ``--max-seconds``: "center", "whole" or "K/N";
                None: as in the checkpoint.
            follow_links: read frames that links lead to, out of their folder; a file that is named
                may always be a link.
            cuda_graphs: launch each token of all texts, and each chunk of candidates, as one CUDA
                graph. It has not been tried on a GPU yet.

        Raises UserError when there is no such checkpoint or it cannot be used.
        """
        overrides: dict[str, Any] = {"follow_links": follow_links, "cuda_graphs": cuda_graphs}
        if test_window:
            window_position(test_window, rng=None)  # now rather than in a process that decodes
            overrides["test_window"] = test_window
        return cls(
            open_checkpoint(
                path, vocabulary=vocabulary, device=device, dtype=dtype, overrides=overrides
            )
        )

    def caption(
        self,
        videos: Videos,
        *,
        start: Seconds = None,
        end: Seconds = None,
        context: Texts = None,
        decoding: Decoding | str = "beam",
    ) -> Caption | list[Caption | None]:
        """Captions; ``context`` is text that goes with the video (subtitles)."""
        return self.generate(
            videos, "caption", start=start, end=end, context=context, decoding=decoding
        )

    def generate(
        self,
        videos: Videos,
        action: str,
        *,
        question: Texts = None,
        start: Seconds = None,
        end: Seconds = None,
        context: Texts = None,
        decoding: Decoding | str = "beam",
    ) -> Caption | list[Caption | None]:
        """Text for any action that the model was trained on.

        ``"answer"`` answers the question in free words; ``--define-action`` adds actions.
        """
        clips = own_videos(videos, start, end, question, context)
        if isinstance(decoding, str):
            decoding = Decoding(decoding)
        task, prompt, wanted = self.loaded.task, self._prompt(action), decoding.num_candidates
        generator = task.build_generator([self.loaded.model], decoding.config(prompt))

        def texts(sample: dict[str, Any]) -> list[tuple]:
            hypotheses = task.generate(generator, to_device(sample, self.loaded.device))
            rows = [tuple(map(self._text, (row or [])[:wanted])) for row in hypotheses]
            for name, row in zip(clips.names(sample), rows, strict=True):
                check_finite([text.score for text in row], name)
            return [(row,) for row in rows]

        device = self.loaded.device
        # Afterwards the caller's random numbers go on as before.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(decoding.seed)
            captions = self._each_clip(clips, prompt, texts)
        return clips.shaped(timed(Caption, clips, captions))

    def answer(
        self,
        videos: Videos,
        question: str | Sequence[str],
        candidates: Sequence[str] | Sequence[Sequence[str]],
        *,
        start: Seconds = None,
        end: Seconds = None,
        context: Texts = None,
        length_normalize: bool = False,
    ) -> Choice | list[Choice | None]:
        """Candidate answers by likelihood; ``candidates`` for all videos or a list for each.

        They are cut to the tokens that answers had in training, which the log says.
        """
        clips = own_videos(videos, start, end, question, context)
        shared = bool(candidates) and isinstance(candidates[0], str)
        texts: Any = [candidates] if shared else candidates
        if not shared and len(texts) != len(clips.rows):
            raise UserError(f"{len(texts)} lists of candidates for {len(clips.rows)} videos")
        return self._choose(clips, self._prompt("answer"), texts, length_normalize)

    def classify(
        self,
        videos: Videos,
        labels: Sequence[str] | None = None,
        *,
        action: str = "classify",
        start: Seconds = None,
        end: Seconds = None,
        context: Texts = None,
        length_normalize: bool = False,
    ) -> Choice | list[Choice | None]:
        """Class names by likelihood; None: those of the training data, where it had any."""
        clips = own_videos(videos, start, end, context=context)
        prompt = self._prompt(action)
        labels = labels or self.loaded.task.classes.get(prompt.field)
        if not labels:
            raise UserError("the model knows no class names of its own: name the labels")
        return self._choose(clips, prompt, [labels], length_normalize)

    def score(
        self,
        videos: Videos,
        texts: Sequence[str],
        *,
        action: str = "caption",
        start: Seconds = None,
        end: Seconds = None,
        context: Texts = None,
        length_normalize: bool = False,
    ) -> list[float] | list[list[float] | None]:
        """Log-likelihood of every text under every video.

        Texts are cut to the tokens that the action's targets had in training, which the log says.
        """
        clips = own_videos(videos, start, end, context=context)
        prompt = self._prompt(action)
        scores = self._scores(clips, prompt, [texts], length_normalize)
        return clips.shaped([None if row is None else list(row) for row in scores])

    def rank(
        self,
        query: str,
        videos: Videos,
        *,
        action: str = "caption",
        start: Seconds = None,
        end: Seconds = None,
        context: Texts = None,
        length_normalize: bool = False,
    ) -> list[Ranked]:
        """Videos by the likelihood of the query, best first; those not read are left out."""
        clips = own_videos(videos, start, end, context=context)
        prompt = self._prompt(action)
        scores = self._scores(clips, prompt, [[query]], length_normalize)
        ranked = [
            Ranked(i, row[0], clips.rows[i].start, clips.rows[i].end)
            for i, row in enumerate(scores)
            if row is not None
        ]
        return sorted(ranked, key=lambda one: -one.score)

    def encode(
        self,
        videos: Videos,
        *,
        action: str = "caption",
        question: Texts = None,
        start: Seconds = None,
        end: Seconds = None,
        context: Texts = None,
    ) -> Encoding | list[Encoding | None]:
        """The encoder's states."""
        clips = own_videos(videos, start, end, question, context)

        def states(sample: dict[str, Any]) -> list[tuple]:
            out = encode(self.loaded, sample)["encoder_out"][0].transpose(0, 1).float().cpu()
            tokens = sample["net_input"]["src_tokens"]
            for name, row in zip(clips.names(sample), out, strict=True):
                check_finite([row.abs().max().item()], name)
            return [
                (row[ids.ne(PAD)], tuple(ids[ids.ne(PAD)].tolist()), self._video_slice(ids))
                for row, ids in zip(out, tokens, strict=True)
            ]

        encodings = self._each_clip(clips, self._prompt(action), states)
        return clips.shaped(timed(Encoding, clips, encodings))

    def library(self, path: str | os.PathLike[str]) -> Library:
        """A library that was indexed with this model, to be searched and asked.

        Raises UserError where there is none, or it is another model's.
        """
        return Library.open(path, self._segment_model())

    def index(
        self,
        library: str | os.PathLike[str],
        videos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        start: Seconds = None,
        end: Seconds = None,
        context: Texts = None,
        every: float | None = None,
        retry: bool = False,
    ) -> Library:
        """Put what is new or changed of ``videos`` into a library, which is made if there is none.

        A file named in several calls has the segments of all of them. What cannot be read is
        listed with its reason in ``Library.captions``.

        Args:
            start: of one segment per video, in seconds.
            end: of the same.
            context: text that goes with it.
            every: seconds of each segment instead; the last one takes the rest.
            retry: try again what could not be read before.

        Raises UserError where the library is another model's, and RunFailure for a full disk.
        """
        clips = own_videos(videos, start, end, context=context)
        timed_parts = any((row.start, row.end, row.context) != (None,) * 3 for row in clips.rows)
        if every is not None and timed_parts:
            raise UserError("every makes the segments: leave out start, end and context")
        rows = [
            Video(
                row.video, parts=((row.start, row.end, row.context or ""),) if timed_parts else None
            )
            for row in clips.rows
        ]
        if clips.frames:
            raise UserError("a library is made of files, found frames")
        opened = self.create_library(library)
        loader = self.loaded.task.clip_loader(None, train=False)
        options = IndexOptions(
            cut=whole if every is None else lambda path, seconds: regular_segments(seconds, every),
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            retry=retry,
            follow_links=loader.follow_links,
            link_suggestion=loader.link_suggestion,
            on_error=lambda video, reason: logger.warning("%s: %s", video, reason),
        )
        opened.index(rows, loader, options)
        return opened

    def create_library(self, path: str | os.PathLike[str]) -> Library:
        """A library of this model to be extended; an empty one where there is none."""
        window = str(self.loaded.task.cfg.test_window)
        return Library.create(path, self._segment_model(), self.loaded.path, window)

    # How

    def _segment_model(self) -> SegmentModel:
        loaded = self.loaded
        return SegmentModel(loaded.model, loaded.task, loaded.device, loaded.fingerprint)

    def _text(self, hypothesis: dict[str, Any]) -> Text:
        text = self.loaded.task.tokenizer.decode(hypothesis["tokens"].tolist())
        return Text(text, float(hypothesis["positional_scores"].float().sum()))

    def _choose(
        self,
        clips: OwnVideos,
        prompt: Prompt,
        candidates: Sequence[Sequence[str]],
        length_normalize: bool,
    ) -> Any:
        if not all(candidates):
            raise UserError("there are no texts to choose from")
        scores = self._scores(clips, prompt, candidates, length_normalize)
        texts = [tuple(own) for own in candidates] * (len(clips.rows) // max(1, len(candidates)))
        choices = [
            None if row is None else (given, row) for given, row in zip(texts, scores, strict=True)
        ]
        return clips.shaped(timed(Choice, clips, choices))

    def _scores(
        self,
        clips: OwnVideos,
        prompt: Prompt,
        candidates: Sequence[Sequence[str]],
        length_normalize: bool,
    ) -> list[tuple[float, ...] | None]:
        """The scores of ``candidates``, cut to training's length; a single list is every clip's."""
        if self.loaded.task.heads is not None:
            raise UserError("a model with heads has no likelihoods; vt-score reads its heads")
        trees, cuts, total = [], 0, 0
        for texts in candidates:
            if isinstance(texts, str):
                raise UserError(f"expected a list of texts, found the text {texts[:60]!r}")
            ids, cut = candidate_ids(self.loaded.task.tokenizer, prompt, texts)
            trees.append(PrefixTree.build(ids))
            cuts, total = cuts + cut, total + len(ids)
        warn_of_cuts(cuts, total, prompt)
        self._warn_of_unknown((text for texts in candidates for text in texts), "to choose from")

        def scores(sample: dict[str, Any]) -> list[tuple[float, ...]]:
            own = trees if len(trees) == 1 else [trees[i] for i in sample["id"].tolist()]
            encoded = encode(self.loaded, sample)
            rows = score_candidates(
                self.loaded.model, encoded, own, self.max_nodes, length_normalize
            )
            values = [tuple(row.tolist()) for row in rows]
            for name, row in zip(clips.names(sample), values, strict=True):
                check_finite(row, name)
            return values

        return self._each_clip(clips, prompt, scores)

    def _each_clip(
        self, clips: OwnVideos, prompt: Prompt, compute: Callable[[dict[str, Any]], list]
    ) -> list:
        """``compute`` of every batch, one value per clip in order; None where it was not read."""
        if not clips.rows:
            return []
        task, count, step = self.loaded.task, len(clips.rows), self.batch_size
        inputs = (
            text
            for row in clips.rows
            for text in (f"{prompt.text_for(row)} {prompt.question_for(row)}", row.context or "")
        )
        self._warn_of_unknown(inputs, "of the prompts and contexts")
        frames = OwnLoader(task.clip_loader(None, train=False), clips.frames)
        dataset = task.build_dataset(clips.rows, frames, [prompt], train=False)
        loader = WatchedDataLoader(
            dataset,
            batch_sampler=[list(range(i, min(i + step, count))) for i in range(0, count, step)],
            collate_fn=dataset.collater,
            # A process costs more than it saves when there is nothing to read ahead.
            num_workers=self.num_workers if count > step else 0,
            pin_memory=self.loaded.device.type == "cuda",
        )
        results = []
        for sample in loader:
            for row_id, reason in sample["unreadable"]:
                if self.on_error is None:
                    raise VideoError(f"{clips.name(row_id)}: {reason}")
                self.on_error(int(row_id), reason)
            values = zip(compute(sample), sample["missing"].tolist(), strict=True)
            results += [None if missing else value for value, missing in values]
        return results

    def _warn_of_unknown(self, texts: Iterable[str], whose: str) -> None:
        """Log what the vocabulary cannot spell, once: a command asks the same of each batch."""
        counts = UnknownText.of(self.loaded.task.tokenizer, dict.fromkeys(filter(None, texts)))
        warning = counts.warning(whose)
        if warning is not None and warning not in self._warnings:
            self._warnings.add(warning)
            logger.warning(warning)

    def _prompt(self, name: str) -> Prompt:
        return self.loaded.task.selected_prompts(name)[0]

    def _video_slice(self, ids: torch.Tensor) -> slice:
        at = ids.eq(self.loaded.task.tokenizer.video).nonzero().flatten().tolist()
        return slice(at[0], at[-1] + 1) if at else slice(0)


def timed(kind: type, clips: OwnVideos, results: list[tuple | None]) -> list:
    """``kind(*values, start, end)`` for every clip; None stays None."""
    return [
        None if values is None else kind(*values, start=row.start, end=row.end)
        for values, row in zip(results, clips.rows, strict=True)
    ]
