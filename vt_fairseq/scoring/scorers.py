"""Clips to scores: by the decoder's likelihood of candidates, or by linear heads.

A scorer takes V rows with their frames and gives a dictionary a row: ``scores``, or ``verb``,
``noun`` and ``action``, each (K,) float64, higher is better; and texts that it wrote. Shapes: V
clips, F frames, H W pixels, K candidates.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fairseq.dataclass.configs import GenerationConfig

from vt_fairseq.candidates.likelihood import EncoderOut, score_candidates
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.top_k import Bounds, Top, top_candidates
from vt_fairseq.data.dataset import pad_right
from vt_fairseq.data.head_targets import ANSWER, candidate_mask
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.data.text import TextOptions
from vt_fairseq.inference.loading import Loaded
from vt_fairseq.models.heads import scores_by_question

Found = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What the decoder is asked of each clip.

    Attributes:
        key: under which the scores are returned.
        action: its prompt.
        tree: the candidates of all rows; None: each row has its own.
    """

    key: str
    action: Prompt
    tree: PrefixTree | None = None


@dataclass(frozen=True)
class Ranking:
    """How the decoder ranks.

    Attributes:
        length_normalize: by the mean log-likelihood per token instead of the sum.
        max_nodes: prefixes decoded at once.
        top_k: only so many of the best (``Top``) instead of all scores.
        beam: of the texts that are generated.
        caption: generate a caption with this action and feed it as text.
        generate: also generate an answer, ``generated``.
    """

    length_normalize: bool = False
    max_nodes: int = 2048
    top_k: int | None = None
    beam: int = 5
    caption: Prompt | None = None
    generate: bool = False


@dataclass
class Source:
    """The encoder's inputs of one model; counts how often which network runs, in clips."""

    loaded: Loaded
    text: TextOptions
    counts: Counter = field(default_factory=Counter)

    def video_tokens(self, frames: torch.Tensor) -> torch.Tensor:
        """(V, F, H, W, 3) uint8 -> (V, T, C) on the device."""
        self.counts["video network"] += len(frames)
        return self.loaded.model.encoder.video(frames.to(self.loaded.device, non_blocking=True))

    def inputs(self, sources: Sequence[Sequence[int]], tokens: torch.Tensor) -> dict[str, Any]:
        """What the encoder takes: ids of each row, and its clips' tokens."""
        src_tokens, src_lengths = (x.to(self.loaded.device) for x in pad_right(sources))
        return {"src_tokens": src_tokens, "src_lengths": src_lengths, "video_tokens": tokens}

    def encode(self, inputs: dict[str, Any]) -> EncoderOut:
        """The encoder's output."""
        self.counts["encoder"] += len(inputs["src_tokens"])
        return self.loaded.model.encoder(**inputs)


class DecoderScorer:
    """Candidates by their likelihood (paper, section 3.1, "Inference")."""

    def __init__(self, loaded: Loaded, questions: Sequence[Question], ranking: Ranking):
        self.source = Source(loaded, loaded.task.text_options())
        self.questions = list(questions)
        self.ranking = ranking
        self.bounds = {
            q.key: Bounds.of(q.tree, ranking.length_normalize)
            for q in self.questions
            if ranking.top_k and q.tree
        }

    def plan(self) -> list[str]:
        """What is to be computed for each clip, in words."""
        return [
            f"{q.action.name}: {len(q.tree.leaves):,} candidates of {q.tree.lengths.sum():,} "
            f"tokens have {q.tree.num_inner:,} prefixes; at most {self.ranking.max_nodes:,} are in "
            "memory at once, over all clips of a batch"
            for q in self.questions
            if q.tree is not None
        ]

    @torch.inference_mode()
    def __call__(self, rows: Sequence[ClipRow], frames: torch.Tensor) -> list[Found]:
        """V rows, their (V, F, H, W, 3) uint8 -> for each its scores by ``Question.key``.

        With ``Ranking.caption`` also ``caption``, with ``Ranking.generate`` ``generated``, texts.
        """
        tokens = self.source.video_tokens(frames)
        found: list[Found] = [{} for _ in rows]
        texts: Sequence[str | None] = [None] * len(rows)
        if self.ranking.caption is not None:
            texts = self._generate(rows, tokens, self.ranking.caption)
            _add(found, "caption", texts)
        for question in self.questions:
            inputs = self._inputs(rows, tokens, question.action, texts)
            encoded = self.source.encode(inputs)
            _add(found, question.key, self._scores(question, rows, encoded))
            if self.ranking.generate:
                _add(found, "generated", self._write(inputs, question.action))
        return found

    def _inputs(
        self,
        rows: Sequence[ClipRow],
        tokens: torch.Tensor,
        action: Prompt,
        texts: Sequence[str | None],
    ) -> dict[str, Any]:
        text = self.source.text
        ids = [None if t is None else text.tokenizer.encode(t) for t in texts]
        sources = [
            text.source(row, action, tokens.size(1), text=own)
            for row, own in zip(rows, ids, strict=True)
        ]
        return self.source.inputs(sources, tokens)

    def _scores(
        self, question: Question, rows: Sequence[ClipRow], encoded: EncoderOut
    ) -> Sequence[np.ndarray | Top]:
        model, how = self.source.loaded.model, self.ranking
        if question.key in self.bounds:
            return top_candidates(
                model, encoded, self.bounds[question.key], how.top_k, how.max_nodes
            )
        trees = [question.tree]
        if question.tree is None:
            ids = self.source.text.tokenizer.encode
            trees = [PrefixTree.build(map(ids, row.candidates)) for row in rows]
        sums = score_candidates(model, encoded, trees, how.max_nodes)
        trees = trees * (len(sums) // len(trees))
        return [
            s / t.lengths if how.length_normalize else s for s, t in zip(sums, trees, strict=True)
        ]

    def _generate(self, rows: Sequence[ClipRow], tokens: torch.Tensor, action: Prompt) -> list[str]:
        return self._write(self._inputs(rows, tokens, action, [None] * len(rows)), action)

    def _write(self, inputs: dict[str, Any], action: Prompt) -> list[str]:
        """Beam search: the best text for each row."""
        task, model = self.source.loaded.task, self.source.loaded.model
        config = GenerationConfig(beam=self.ranking.beam, max_len_b=action.max_target_tokens)
        generator = task.build_generator([model], config)
        self.source.counts["encoder"] += len(inputs["src_tokens"])
        missing = torch.zeros(len(inputs["src_tokens"]), dtype=torch.bool)
        hypotheses = task.generate(generator, {"net_input": inputs, "missing": missing})
        return [task.tokenizer.decode(best[0]["tokens"].tolist()) for best in hypotheses]


class HeadScorer:
    """Classes, or the candidates of a question, by linear layers at [CLS] (section 3.1)."""

    def __init__(self, loaded: Loaded):
        self.source = Source(loaded, loaded.task.text_options())
        self.heads = loaded.task.heads
        self.prompt = loaded.task.selected_prompts()[0]

    def plan(self) -> list[str]:
        """What is to be computed for each clip, in words."""
        return [f"heads: {', '.join(self.heads.names())}"]

    @torch.inference_mode()
    def __call__(self, rows: Sequence[ClipRow], frames: torch.Tensor) -> list[Found]:
        """V rows, their (V, F, H, W, 3) uint8 -> for each its logits: ``verb``, ``noun``, or
        ``scores`` of the label or the candidates."""
        tokens = self.source.video_tokens(frames)
        sources, counts, clip_of_row = self.heads.sources(
            self.source.text, self.prompt, rows, [tokens.size(1)] * len(rows)
        )
        if not sources:
            return [{"scores": np.zeros(0)} for _ in rows]
        inputs = self.source.inputs(sources, tokens)
        inputs["clip_of_row"] = clip_of_row.to(tokens.device)
        logits = self.source.loaded.model.class_logits(self.source.encode(inputs))
        if ANSWER in logits:
            mask = candidate_mask(counts).to(tokens.device)
            scores = scores_by_question(logits[ANSWER], mask).cpu().numpy()
            return [{"scores": s[:n].astype(float)} for s, n in zip(scores, counts, strict=True)]
        found: list[Found] = [{} for _ in rows]
        for name, values in logits.items():
            key = "scores" if name == "label" else name
            _add(found, key, values.cpu().numpy().astype(float))
        return found


def _add(found: list[Found], key: str, values: Sequence[Any]) -> None:
    for row, value in zip(found, values, strict=True):
        row[key] = value
