"""Clips to scores: by the decoder's likelihood of candidates, or by linear heads.

Shapes: V clips, F frames, H W pixels, T video tokens, C width, K candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fairseq.dataclass.configs import GenerationConfig

from vt_fairseq.candidates.likelihood import score_candidates
from vt_fairseq.candidates.prefix_tree import PrefixTree
from vt_fairseq.candidates.texts import candidate_ids, warn_of_cuts
from vt_fairseq.candidates.top_k import Bounds, Top, top_candidates
from vt_fairseq.data.dataset import pad_right
from vt_fairseq.data.head_targets import ANSWER, candidate_mask
from vt_fairseq.data.manifest import ClipRow
from vt_fairseq.data.prompts import Prompt
from vt_fairseq.inference.loading import Loaded
from vt_fairseq.models.heads import scores_by_question


@dataclass
class Prediction:
    """What one model says of one window of a row.

    Attributes:
        scores: (K,) float64, higher is better: ``scores`` of answers, labels or captions, or those
            of ``verb``, ``noun`` and ``action``.
        top: the likeliest candidates, where only these are searched for; ``scores`` is empty then.
        caption, generated: texts that the model wrote: a caption as its own input, an answer.
    """

    scores: dict[str, np.ndarray] = field(default_factory=dict)
    top: Top | None = None
    caption: str | None = None
    generated: str | None = None


@dataclass(frozen=True)
class DecoderQuery:
    """What the decoder is asked of each clip.

    Attributes:
        key: of its scores in ``Prediction.scores``.
        prompt: the task.
        tree: the candidates of all rows; None: each row has its own.
    """

    key: str
    prompt: Prompt
    tree: PrefixTree | None = None


@dataclass
class DecoderScorer:
    """Candidates by their likelihood (paper, section 3.1, "Inference").

    Attributes:
        loaded: the model.
        queries: what it is asked.
        length_normalize: rank by the mean log-likelihood per token instead of the sum.
        max_nodes: prefixes decoded at once, over all clips.
        top_k: find only so many of the best candidates; None: score all.
        beam: of the texts that are generated.
        caption_prompt: generate a caption with this prompt and feed it as text.
        generate_answer: also answer each question in free words.
    """

    loaded: Loaded
    queries: Sequence[DecoderQuery]
    length_normalize: bool
    max_nodes: int
    top_k: int | None
    beam: int
    caption_prompt: Prompt | None
    generate_answer: bool

    def __post_init__(self) -> None:
        self._has_cut = False
        self.text = self.loaded.task.text_options()
        self.bounds = {
            query.key: Bounds.of(query.tree, self.length_normalize)
            for query in self.queries
            if self.top_k and query.tree
        }

    def describe(self) -> list[str]:
        """What is to be computed for each clip, in words."""
        return [
            f"{q.prompt.name}: {len(q.tree.leaves):,} candidates of {q.tree.lengths.sum():,} "
            f"tokens have {q.tree.num_inner:,} prefixes; at most {self.max_nodes:,} are in "
            "memory at once, over all clips of a batch"
            for q in self.queries
            if q.tree is not None
        ]

    @torch.inference_mode()
    def __call__(self, rows: Sequence[ClipRow], frames: torch.Tensor) -> list[Prediction]:
        """One prediction for each of V rows with their (V, F, H, W, 3) uint8 frames."""
        tokens = video_tokens(self.loaded, frames)
        predictions = [Prediction() for _ in rows]
        if self.caption_prompt is not None:
            inputs = self._inputs(rows, tokens, self.caption_prompt, predictions)
            texts = self._generate(inputs, self.caption_prompt)
            predictions = [Prediction(caption=text) for text in texts]
        for query in self.queries:
            inputs = self._inputs(rows, tokens, query.prompt, predictions)
            self._score(query, rows, inputs, predictions)
            if self.generate_answer:
                answers = self._generate(inputs, query.prompt)
                for one, text in zip(predictions, answers, strict=True):
                    one.generated = text
        return predictions

    def _inputs(
        self,
        rows: Sequence[ClipRow],
        tokens: torch.Tensor,
        prompt: Prompt,
        predictions: Sequence[Prediction],
    ) -> dict[str, torch.Tensor]:
        """The encoder's inputs; captions that were generated stand where training has its text."""
        encode = self.loaded.task.tokenizer.encode
        texts = [None if one.caption is None else encode(one.caption) for one in predictions]
        sources = [
            self.text.source(row, prompt, tokens.size(1), text)
            for row, text in zip(rows, texts, strict=True)
        ]
        return encoder_inputs(self.loaded, sources, tokens)

    def _score(
        self,
        query: DecoderQuery,
        rows: Sequence[ClipRow],
        inputs: dict[str, torch.Tensor],
        predictions: Sequence[Prediction],
    ) -> None:
        model = self.loaded.model
        encoded = model.encoder(**inputs)
        if self.top_k and (bounds := self.bounds.get(query.key)):
            best = top_candidates(model, encoded, bounds, self.top_k, self.max_nodes)
            for one, top in zip(predictions, best, strict=True):
                one.top = top
            return
        trees = [query.tree] if query.tree else [self._own_tree(query, row) for row in rows]
        scores = score_candidates(model, encoded, trees, self.max_nodes, self.length_normalize)
        for one, values in zip(predictions, scores, strict=True):
            one.scores[query.key] = values

    def _own_tree(self, query: DecoderQuery, row: ClipRow) -> PrefixTree:
        """The row's own candidates; the log names the first row that has longer ones."""
        ids, cut = candidate_ids(self.loaded.task.tokenizer, query.prompt, row.candidates)
        if cut and not self._has_cut:
            self._has_cut = True
            whose = f" of row {row.id} (the first such row; others are not named)"
            warn_of_cuts(cut, len(ids), query.prompt, whose)
        return PrefixTree.build(ids)

    def _generate(self, inputs: dict[str, torch.Tensor], prompt: Prompt) -> list[str]:
        """The best text of beam search for each row."""
        task = self.loaded.task
        config = GenerationConfig(beam=self.beam, max_len_b=prompt.max_target_tokens)
        generator = task.build_generator([self.loaded.model], config)
        missing = torch.zeros(len(inputs["src_tokens"]), dtype=torch.bool)
        hypotheses = task.generate(generator, {"net_input": inputs, "missing": missing})
        return [task.tokenizer.decode(best[0]["tokens"].tolist()) for best in hypotheses]


class HeadScorer:
    """Classes, or the candidates of a question, by linear layers at [CLS] (section 3.1)."""

    def __init__(self, loaded: Loaded):
        if loaded.task.heads is None:
            raise ValueError("expected a model with heads")
        self.loaded = loaded
        self.text = loaded.task.text_options()
        self.heads = loaded.task.heads
        self.prompt = loaded.task.selected_prompts()[0]

    def describe(self) -> list[str]:
        """What is to be computed for each clip, in words."""
        return [f"heads: {', '.join(self.heads.names())}"]

    @torch.inference_mode()
    def __call__(self, rows: Sequence[ClipRow], frames: torch.Tensor) -> list[Prediction]:
        """The logits for each of V rows with their (V, F, H, W, 3) uint8 frames."""
        tokens = video_tokens(self.loaded, frames)
        sources, counts, clip_of_row = self.heads.sources(
            self.text, self.prompt, rows, [tokens.size(1)] * len(rows)
        )
        if not sources:
            return [Prediction({"scores": np.zeros(0)}) for _ in rows]
        inputs = encoder_inputs(self.loaded, sources, tokens)
        inputs["clip_of_row"] = clip_of_row.to(tokens.device)
        logits = self.loaded.model.class_logits(self.loaded.model.encoder(**inputs))
        if ANSWER in logits:
            mask = candidate_mask(counts).to(tokens.device)
            scores = _as_float64(scores_by_question(logits[ANSWER], mask))
            return [Prediction({"scores": s[:n]}) for s, n in zip(scores, counts, strict=True)]
        by_key = {"scores" if k == "label" else k: _as_float64(v) for k, v in logits.items()}
        return [Prediction({k: v[i] for k, v in by_key.items()}) for i in range(len(rows))]


def video_tokens(loaded: Loaded, frames: torch.Tensor) -> torch.Tensor:
    """(V, F, H, W, 3) uint8 -> (V, T, C) on the model's device."""
    model: Any = loaded.model
    return model.encoder.video(frames.to(loaded.device, non_blocking=True))


def encoder_inputs(
    loaded: Loaded, sources: Sequence[Sequence[int]], tokens: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What the encoder takes: the ids of each row, and the video ``tokens`` of its clips."""
    src_tokens, src_lengths = (x.to(loaded.device) for x in pad_right(sources))
    return {"src_tokens": src_tokens, "src_lengths": src_lengths, "video_tokens": tokens}


def _as_float64(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy().astype(np.float64)
