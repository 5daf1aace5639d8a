"""Clip row in, batch out: decoding, transforms, text and noise put together.

Shapes: B clips, F frames, H W pixels, S source tokens, L target tokens.

Every random choice depends on (seed, epoch, row) alone, so it is the same for any number of
workers and after a restart. A clip that cannot be read is replaced in training by another row,
and kept without video in evaluation, where it counts as missing; either way the batch
names it and the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset

from vt_fairseq.data.head_targets import HeadTargets, candidate_mask
from vt_fairseq.data.manifest import ClipRow, Manifest
from vt_fairseq.data.permutation import Batches, Permutation
from vt_fairseq.data.prompts import Action
from vt_fairseq.data.text import SourceTemplate
from vt_fairseq.data.text_noise import TextNoise, random_generator
from vt_fairseq.data.tokenizer import EOS, PAD
from vt_fairseq.errors import UserError, VideoError

# A training row that cannot be read is replaced by another; this many in a row mean that the
# data as a whole is not there.
MAX_REPLACEMENTS = 20
# Streams of random numbers of one row, so that adding a draw to one leaves the others alone.
STREAM_CLIP, STREAM_ACTION, STREAM_TEXT, STREAM_BATCH, STREAM_REPLACE, STREAM_ORDER = range(1, 7)

Sample = dict[str, Any]


@dataclass
class Clip:
    """One decoded row.

    Attributes:
        index: the row asked for (the replacement's own row is ``row``).
        row: the manifest row whose video and text these are.
        row_index: its number in the manifest.
        frames: (F, H, W, 3) uint8, or None for a row without video.
        bad: (clip id, reason) of every clip that could not be read on the way.
        missing: the row asked for could not be read and was not replaced (evaluation).
    """

    index: int
    row: ClipRow
    row_index: int
    frames: np.ndarray | None
    bad: list[tuple[str, str]] = field(default_factory=list)
    missing: bool = False


@dataclass(frozen=True)
class TextOptions:
    """How texts become ids.

    Attributes:
        template: the source sequence.
        noise: training noise on the target text.
        test_mask_tokens: [MASK] tokens that stand for the absent text at test (0: no text).
        context: the rows' context (subtitles) goes into the source.
    """

    template: SourceTemplate
    noise: TextNoise
    test_mask_tokens: int
    context: bool = True

    def source(
        self,
        row: ClipRow,
        action: Action,
        num_video_tokens: int,
        text: Sequence[int] | None = None,
        candidate: str = "",
    ) -> list[int]:
        """Source ids: after [SEP] the candidate and the row's context, [SEP] between them.

        ``text`` None is the absent text at test.
        """
        t = self.template.tokenizer
        context = t.encode(row.context) if row.context and self.context else []
        if candidate:
            context = [*t.encode(candidate), *([t.sep, *context] if context else [])]
        if text is None:
            text = [t.mask] * self.test_mask_tokens
        return self.template.build(
            t.encode(action.prompt_for(row)), num_video_tokens, text, context
        )


class VideoTextDataset(FairseqDataset):
    """Rows of one split as fairseq batches.

    Args:
        manifest: the split's rows.
        load_frames: (row, rng or None) -> (F, H, W, 3) uint8; raises VideoError. None for a model
            without video input.
        num_video_tokens: T, the video network's tokens a clip.
        actions: the tasks. In training a row with several draws one of them each epoch.
        reuse_batch: training only: ``collater`` returns one sample an action over the same
            decoded clips ({} where no row has a target), to be trained on back to back (paper,
            section 3.1).
        text: how texts become ids.
        seed: first part of every random key.
        train: noise, augmentation, shuffling and replacement of bad rows.
        heads: what linear heads are trained on; None for a model that writes text.
    """

    # fairseq otherwise keeps the first epoch's batches, and a resumed run sees others.
    can_reuse_epoch_itr_across_epochs = False
    # The dummy batch is the first real one; decoding one more just for it is a waste.
    supports_fetch_outside_dataloader = False

    def __init__(
        self,
        manifest: Manifest,
        load_frames,
        num_video_tokens: int,
        actions: Sequence[Action],
        reuse_batch: bool,
        text: TextOptions,
        seed: int,
        train: bool,
        heads: HeadTargets | None = None,
    ):
        super().__init__()
        self.manifest = manifest
        self.load_frames = load_frames
        self.num_video_tokens = num_video_tokens if load_frames is not None else 0
        self.actions = list(actions)
        self.reuse_batch = reuse_batch and train and len(self.actions) > 1
        self.text = text
        self.seed = seed
        self.train = train
        self.heads = heads
        self.epoch = 1

    def __len__(self) -> int:
        return len(self.manifest)

    def set_epoch(self, epoch: int) -> None:
        """Called by fairseq before each epoch; part of every random key of training."""
        self.epoch = epoch

    def _rng(self, stream: int, row: int) -> np.random.Generator:
        return random_generator(self.seed, self.epoch, row, stream)

    def __getitem__(self, index: int) -> Clip:
        """Decode row ``index``; see ``Clip`` for what happens when that fails."""
        bad: list[tuple[str, str]] = []
        row_index = int(index)
        for _ in range(MAX_REPLACEMENTS):
            row = self.manifest[row_index]
            try:
                frames = None
                if self.load_frames is not None:
                    rng = self._rng(STREAM_CLIP, row_index) if self.train else None
                    frames = self.load_frames(row, rng)
                return Clip(int(index), row, row_index, frames, bad)
            except VideoError as error:
                bad.append((row.id, str(error)))
            if not self.train:
                return Clip(int(index), row, row_index, None, bad, missing=True)
            replace = random_generator(self.seed, self.epoch, index, STREAM_REPLACE, len(bad))
            row_index = int(replace.integers(len(self.manifest)))
        raise UserError(
            f"{MAX_REPLACEMENTS} clips in a row could not be read, the last one "
            f"{bad[-1][0]}: {bad[-1][1]}; check --video-root"
        )

    def collater(self, clips: list[Clip]) -> Sample | list[Sample]:
        """A fairseq sample, or one an action in a list when the batch is to be reused.

        A sample's ``net_input``: ``src_tokens`` (B, S) int64, ``src_lengths`` (B,),
        ``video`` (V, F, H, W, 3) uint8 of the V <= B rows that have [VIDEO] tokens, and
        ``prev_output_tokens`` (B, L). ``target`` (B, L) ends in eos and is padded, or is None
        when no row has one; ``num_cut`` of them were longer than their action's limit.
        ``missing`` (B,) bool marks rows whose clip could not be read; ``clip_ids`` and
        ``references`` (texts) are lists of B, ``bad`` lists (id, reason).

        For heads there is no ``target`` but ``classes``, (B,) int64 a head. For the head
        ``answer`` the source has R rows, one a candidate, clip after clip: ``candidates`` (B, K)
        bool says how many each has, and in ``net_input`` ``clip_of_row`` gives the clip of each
        row that has [VIDEO] tokens.
        """
        if not clips:
            return {}
        if self.reuse_batch:
            return [
                self._sample([c for c in clips if action.references(c.row)], lambda _, a=action: a)
                for action in self.actions
            ]
        return self._sample(clips, self._action_of)

    def _action_of(self, clip: Clip) -> Action:
        """The row's action: the only one, or in training one drawn among those with a target."""
        able = [a for a in self.actions if a.references(clip.row)] or self.actions
        if not self.train or len(able) == 1:
            return able[0]
        return able[int(self._rng(STREAM_ACTION, clip.index).integers(len(able)))]

    def _sample(self, clips: list[Clip], action_of) -> Sample:
        if not clips:
            return {}
        if self.heads is not None:
            return self._common(clips, action_of) | self._head_inputs(clips)
        share = random_generator(self.seed, self.epoch, clips[0].index, STREAM_BATCH).random()
        texts = [self._texts(clip, action_of(clip), share) for clip in clips]
        sources, targets, cut = (list(column) for column in zip(*texts, strict=True))
        net_input = source_tensors(sources, clips)
        target = None
        if any(targets):
            target, _ = pad_right(targets)
            shifted = torch.full_like(target, PAD)
            shifted[:, 1:] = target[:, :-1]
            net_input["prev_output_tokens"] = shifted
        return self._common(clips, action_of) | {
            "ntokens": sum(map(len, targets)),
            "num_cut": sum(cut),
            "net_input": net_input,
            "target": target,
        }

    def _common(self, clips: list[Clip], action_of) -> Sample:
        return {
            "id": torch.tensor([c.index for c in clips]),
            "nsentences": len(clips),
            "missing": torch.tensor([c.missing for c in clips]),
            "num_missing": sum(c.missing for c in clips),
            "bad": [b for c in clips for b in c.bad],
            "clip_ids": [c.row.id for c in clips],
            "references": [list(action_of(c).references(c.row)) for c in clips],
        }

    def _head_inputs(self, clips: list[Clip]) -> Sample:
        """No noise and nothing of the target: the source is the same in training and at test."""
        candidates = [self.heads.candidates(clip.row) for clip in clips]
        sources = [
            self._source(clip, self.actions[0], (), candidate)
            for clip, texts in zip(clips, candidates, strict=True)
            for candidate in texts
        ]
        sample = {
            "ntokens": sum(map(len, sources)),
            "net_input": source_tensors(sources, clips),
            "target": None,
            "classes": self.heads.targets([clip.row for clip in clips]),
        }
        if self.heads.per_candidate:
            sample["candidates"] = candidate_mask([len(texts) for texts in candidates])
            seen = [
                len(c) for c, clip in zip(candidates, clips, strict=True) if clip.frames is not None
            ]
            of_row = torch.arange(len(seen)).repeat_interleave(torch.tensor(seen, dtype=torch.long))
            sample["net_input"]["clip_of_row"] = of_row
        return sample

    def _texts(self, clip: Clip, action: Action, share: float) -> tuple[list[int], list[int], bool]:
        """Source ids, target ids (with eos; empty when there is none), was the target cut."""
        t = self.text.template.tokenizer
        # One stream an action: reused batches get noise of their own.
        rng = random_generator(
            self.seed, self.epoch, clip.index, STREAM_TEXT, self.actions.index(action)
        )
        text = action.target(clip.row, rng if self.train else None)
        whole = [] if text is None else t.encode(text)
        target = whole[: action.max_target_tokens]
        noisy = self.text.noise(target, share, rng) if self.train else None
        source = self._source(clip, action, noisy)
        return source, [] if text is None else [*target, EOS], len(whole) > len(target)

    def _source(
        self, clip: Clip, action: Action, text: Sequence[int] | None, candidate: str = ""
    ) -> list[int]:
        num_video_tokens = 0 if clip.frames is None else self.num_video_tokens
        return self.text.source(clip.row, action, num_video_tokens, text, candidate)

    def ordered_indices(self) -> Sequence[int]:
        """All rows, in training in an order of their own for each (seed, epoch)."""
        if self.train:
            return Permutation(len(self), self.seed, self.epoch, STREAM_ORDER)
        return range(len(self))

    def batch_by_size(
        self,
        indices: Sequence[int],
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> Batches:
        """``indices`` in order: ``max_sentences`` rows or ``max_tokens`` target tokens at once.

        fairseq's own loses rows when the last batch is no multiple of
        ``required_batch_size_multiple`` (8 by default); here every row is kept and it is ignored.
        """
        sizes = [] if max_sentences is None else [max_sentences]
        if max_tokens is not None:
            sizes.append(max(1, max_tokens // self.num_tokens(0)))
        return Batches(indices, min(sizes, default=1))

    def num_tokens(self, index: int) -> int:
        """An upper bound of a row's target tokens, the same for all (texts are short)."""
        return 1 + max(a.max_target_tokens for a in self.actions)

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """``num_tokens`` of many rows."""
        return np.full(len(indices), self.num_tokens(0))

    def size(self, index: int) -> int:
        """As ``num_tokens``."""
        return self.num_tokens(index)


def source_tensors(sources: list[list[int]], clips: list[Clip]) -> Sample:
    """``src_tokens``, ``src_lengths`` and, of the clips that have frames, ``video``."""
    src_tokens, src_lengths = pad_right(sources)
    net_input: Sample = {"src_tokens": src_tokens, "src_lengths": src_lengths}
    frames = [c.frames for c in clips if c.frames is not None]
    if frames:
        net_input["video"] = torch.from_numpy(np.stack(frames))
    return net_input


def pad_right(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, S) int64 padded with 0 on the right, and the (B,) lengths."""
    lengths = torch.tensor([len(r) for r in rows], dtype=torch.long)
    out = torch.full((len(rows), max([1, *lengths.tolist()])), PAD, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return out, lengths
