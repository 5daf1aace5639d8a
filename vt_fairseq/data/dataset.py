"""Clip row in, batch out: decoding, transforms, text and noise put together.

Shapes: B clips, F frames, H W pixels, S source tokens, L target tokens.

Every random choice depends on (seed, epoch, row) alone, so it is the same for any number of
workers and after a restart. A clip that cannot be read is replaced by another row in training. In
evaluation its row stays without video and counts as missing. Either way the batch names the clip
and the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fairseq.data import FairseqDataset

from vt_fairseq.data.clips import FrameLoader
from vt_fairseq.data.head_targets import NO_CLASS, HeadTargets, candidate_mask
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.permutation import Batches, Permutation
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.data.text import TextOptions
from vt_fairseq.data.text_noise import random_generator
from vt_fairseq.data.tokenizer import EOS, PAD
from vt_fairseq.errors import UserError, VideoError
from vt_fairseq.video.augmentation import MIXED_CLIPS, mix_still

# A training row that cannot be read is replaced by another; so many failures one after the other
# mean that the data as a whole is not there.
MAX_REPLACEMENTS = 20
# Streams of random numbers of one row, so that adding a draw to one leaves the others alone.
STREAM_CLIP, STREAM_PROMPT, STREAM_TEXT, STREAM_BATCH, STREAM_REPLACE, STREAM_ORDER = range(1, 7)
STREAM_STILL = 7

Sample = dict[str, Any]


@dataclass
class Clip:
    """One decoded row.

    Attributes:
        index: the row asked for; ``row`` is another one where that could not be read in training.
        row: the manifest row whose video and text these are.
        frames: (F, H, W, 3) uint8, or None for a row without video.
        unreadable: (clip id, reason) of every clip that could not be read on the way.
    """

    index: int
    row: ClipRow
    frames: np.ndarray | None
    unreadable: list[tuple[str, str]] = field(default_factory=list)

    @property
    def missing(self) -> bool:
        """Whether the row could not be read and was not replaced (evaluation)."""
        return self.frames is None and bool(self.unreadable)


@dataclass(eq=False)
class VideoTextDataset(FairseqDataset):
    """Rows of one split as fairseq batches.

    Attributes:
        rows: the split's rows.
        load_frames: (row, rng or None) -> (F, H, W, 3) uint8; raises VideoError. None for a model
            without video input.
        num_video_tokens: T, the video network's tokens per clip.
        prompts: the tasks. In training a row with targets for several draws one of them each
            epoch.
        reuse_batch: training only: ``collater`` returns one sample per prompt over the same
            decoded clips, to be trained on back to back (paper, section 3.1).
        text: how texts become ids.
        seed: first part of every random key.
        train: noise, augmentation, shuffling and replacement of unreadable rows.
        heads: what linear heads are trained on; None for a model that writes text.
        blank_shape: F, H, W, 3 of the ``blank_video`` of a batch that has no frames, where several
            processes train together: each has to run the video network, for which others may wait.
        still_mix: training only: most of a still frame of another row's clip that shows through.
        length_multiple: of which the lengths of sources and targets are multiples.
    """

    rows: Sequence[ClipRow]
    load_frames: FrameLoader | None
    num_video_tokens: int
    prompts: Sequence[Prompt]
    reuse_batch: bool
    text: TextOptions
    seed: int
    train: bool
    heads: HeadTargets | None = None
    blank_shape: tuple[int, ...] | None = None
    still_mix: float = 0.0
    length_multiple: int = 1

    # The dummy batch is the first real one; decoding one more just for it is a waste.
    supports_fetch_outside_dataloader = False

    def __post_init__(self) -> None:
        self.reuse_batch = self.reuse_batch and self.train and len(self.prompts) > 1
        self.epoch = 1
        if not 0 <= self.still_mix <= 1:
            raise UserError(f"a still frame's weight is in [0, 1], found {self.still_mix}")

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Called by fairseq before each epoch; part of every random key of training."""
        self.epoch = epoch

    def _rng(self, row: int, *stream: int) -> np.random.Generator:
        return random_generator(self.seed, self.epoch, row, *stream)

    def __getitem__(self, index: int) -> Clip:
        """Decode row ``index``; see ``Clip`` for what happens when that fails."""
        unreadable: list[tuple[str, str]] = []
        index = row_index = int(index)
        for _ in range(MAX_REPLACEMENTS):
            row = self.rows[row_index]
            try:
                frames = None
                if self.load_frames is not None:
                    rng = self._rng(row_index, STREAM_CLIP) if self.train else None
                    frames = self._with_still(self.load_frames(row, rng), row_index)
                return Clip(index, row, frames, unreadable)
            except VideoError as error:
                unreadable.append((row.id, str(error)))
            if not self.train:
                return Clip(index, row, None, unreadable)
            replacement = self._rng(index, STREAM_REPLACE, len(unreadable))
            row_index = int(replacement.integers(len(self.rows)))
        raise UserError(
            f"{MAX_REPLACEMENTS} clips in a row could not be read, the last one "
            f"{': '.join(unreadable[-1])}; check the video root"
        )

    def _with_still(self, frames: np.ndarray, row_index: int) -> np.ndarray:
        """Some training clips with a still frame of another row's clip, if it can be read."""
        if not (self.train and self.still_mix and self.load_frames is not None):
            return frames
        rng = self._rng(row_index, STREAM_STILL)
        if rng.random() >= MIXED_CLIPS:
            return frames
        try:
            other = self.load_frames(self.rows[int(rng.integers(len(self.rows)))], rng)
        except VideoError:  # it is named when its own turn comes
            return frames
        return mix_still(frames, other, self.still_mix, rng)

    def collater(self, clips: list[Clip]) -> Sample | list[Sample]:
        """A fairseq sample, or a list of one per prompt when the batch is to be reused.

        A sample's ``net_input``: ``src_tokens`` (B, S) int64, ``src_lengths`` (B,) int64,
        ``video`` (V, F, H, W, 3) uint8 of the V <= B rows that have [VIDEO] tokens, and
        ``prev_output_tokens`` (B, L) int64; ``blank_video`` where V is 0. ``target`` (B, L) int64
        ends in eos and is padded, or is None when no row has one; ``num_cut`` of them were longer
        than their prompt's limit. ``missing`` (B,) bool marks rows whose clip could not be read;
        ``clip_ids`` and ``references`` (texts) are lists of B, ``unreadable`` lists (id, reason).
        ``num_decoded`` rows were decoded or tried for it. Of a batch that is reused, the first
        sample alone has those numbers, and all ``unreadable``; a sample has the rows with a target
        for its prompt, or all of them where there is none.

        ``ntokens`` are those of the targets of clips that could be read.

        For heads there is no ``target`` but ``classes``, (B,) int64 per head, and ``num_labeled``,
        the number of clips that could be read and have a class. For the head
        ``answer`` the source has R rows, one per candidate, clip after clip: ``candidates``
        (B, K) bool says how many each has, and in ``net_input`` ``clip_of_row`` gives the clip of
        each row that has [VIDEO] tokens.
        """
        if not clips:
            return {}
        if self.reuse_batch:
            having = [[c for c in clips if p.references(c.row)] or clips for p in self.prompts]
            samples = [
                self._sample(some, [prompt] * len(some))
                for prompt, some in zip(self.prompts, having, strict=True)
            ]
            return [decoded_here(samples[0], clips), *(decoded_here(s, []) for s in samples[1:])]
        sample = self._sample(clips, [self._draw_prompt(clip) for clip in clips])
        return decoded_here(sample, clips)

    def _draw_prompt(self, clip: Clip) -> Prompt:
        """The row's prompt: the only one, or in training one drawn among those with a target."""
        able = [p for p in self.prompts if p.references(clip.row)] or self.prompts
        if not self.train or len(able) == 1:
            return able[0]
        return able[int(self._rng(clip.index, STREAM_PROMPT).integers(len(able)))]

    def _sample(self, clips: list[Clip], prompts: list[Prompt]) -> Sample:
        common = {
            "id": torch.tensor([c.index for c in clips]),
            "nsentences": len(clips),
            "missing": torch.tensor([c.missing for c in clips]),
            "num_missing": sum(c.missing for c in clips),
            "clip_ids": [c.row.id for c in clips],
            "references": [
                list(prompt.references(c.row)) for c, prompt in zip(clips, prompts, strict=True)
            ],
        }
        if self.heads is not None:
            return common | self._head_inputs(clips, self.heads)
        return common | self._texts(clips, prompts)

    def _head_inputs(self, clips: list[Clip], heads: HeadTargets) -> Sample:
        rows = [clip.row for clip in clips]
        classes = heads.targets(rows)
        labeled = torch.stack([target.ne(NO_CLASS) for target in classes.values()]).any(dim=0)
        seen = torch.tensor([not clip.missing for clip in clips])
        tokens = [self._video_tokens(clip) for clip in clips]
        sources, counts, clip_of_row = heads.sources(self.text, self.prompts[0], rows, tokens)
        sample: Sample = {
            "ntokens": sum(map(len, sources)),
            "net_input": self._source_tensors(sources, clips),
            "target": None,
            "classes": classes,
            "num_labeled": int((labeled & seen).sum()),
        }
        if heads.per_candidate:
            sample["candidates"] = candidate_mask(counts)
            sample["net_input"]["clip_of_row"] = clip_of_row
        return sample

    def _texts(self, clips: list[Clip], prompts: list[Prompt]) -> Sample:
        share = self._rng(clips[0].index, STREAM_BATCH).random()
        texts = [self._text(c, prompt, share) for c, prompt in zip(clips, prompts, strict=True)]
        sources, targets, cut = (list(column) for column in zip(*texts, strict=True))
        net_input = self._source_tensors(sources, clips)
        target = None
        if any(targets):
            target, _ = pad_right(targets, self.length_multiple)
            net_input["prev_output_tokens"] = torch.full_like(target, PAD)
            net_input["prev_output_tokens"][:, 1:] = target[:, :-1]
        return {
            "ntokens": sum(
                len(target) for target, clip in zip(targets, clips, strict=True) if not clip.missing
            ),
            "num_cut": sum(cut),
            "net_input": net_input,
            "target": target,
        }

    def _text(self, clip: Clip, prompt: Prompt, share: float) -> tuple[list[int], list[int], bool]:
        """Source ids, target ids (with eos; empty when there is none), was the target cut."""
        # One stream per prompt: reused batches get noise of their own.
        rng = self._rng(clip.index, STREAM_TEXT, self.prompts.index(prompt))
        text = prompt.target(clip.row, rng if self.train else None)
        whole = [] if text is None else self.text.tokenizer.encode(text)
        target = whole[: prompt.max_target_tokens]
        noisy = self.text.noise(target, share, rng) if self.train else None
        source = self.text.source(clip.row, prompt, self._video_tokens(clip), noisy)
        return source, [] if text is None else [*target, EOS], len(whole) > len(target)

    def _video_tokens(self, clip: Clip) -> int:
        return 0 if clip.frames is None else self.num_video_tokens

    def _source_tensors(self, sources: list[list[int]], clips: list[Clip]) -> Sample:
        """``src_tokens``, ``src_lengths`` and, of the clips that have frames, ``video``."""
        src_tokens, src_lengths = pad_right(sources, self.length_multiple)
        net_input: Sample = {"src_tokens": src_tokens, "src_lengths": src_lengths}
        frames = [c.frames for c in clips if c.frames is not None]
        if frames:
            net_input["video"] = torch.from_numpy(np.stack(frames))
        elif self.blank_shape is not None:
            net_input["blank_video"] = torch.zeros(1, *self.blank_shape, dtype=torch.uint8)
        return net_input

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
    ) -> Batches:
        """``indices`` in order: ``max_sentences`` rows or ``max_tokens`` target tokens per batch.

        Every row is kept, and counts as the longest target that the prompts allow.
        """
        sizes = [] if max_sentences is None else [max_sentences]
        if max_tokens is not None:
            longest = 1 + max(prompt.max_target_tokens for prompt in self.prompts)
            sizes.append(max(1, max_tokens // longest))
        return Batches(indices, min(sizes, default=1))


def decoded_here(sample: Sample, clips: list[Clip]) -> Sample:
    """A sample that counts these clips, and names those of them that could not be read."""
    unreadable = [named for clip in clips for named in clip.unreadable]
    return sample | {"num_decoded": len(clips), "unreadable": unreadable}


def pad_right(
    rows: Sequence[Sequence[int]], multiple: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, S) int64 padded with 0 on the right, S a multiple of that, and the (B,) lengths."""
    lengths = torch.tensor([len(r) for r in rows], dtype=torch.long)
    longest = max([1, *lengths.tolist()])
    out = torch.full((len(rows), longest + -longest % multiple), PAD, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return out, lengths
