"""Candidates ranked by the decoder's log-likelihood (paper, section 3.1, "Inference").

The encoder runs once a clip; candidates are decoded against copies of its states. Nothing here
knows of files or options. Shapes: B clips, L target tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from vt_fairseq.data.text import EOS, PAD


@dataclass(frozen=True)
class Likelihood:
    """``log_likelihood`` (natural logarithm, <= 0) of ``num_tokens`` tokens, eos included."""

    log_likelihood: float
    num_tokens: int

    def score(self, length_normalised: bool) -> float:
        """The log-likelihood, or its mean per token."""
        return self.log_likelihood / (self.num_tokens if length_normalised else 1)


@torch.inference_mode()
def score_candidates(
    model: nn.Module,
    encoder_out: dict[str, list[torch.Tensor]],
    candidates: Sequence[Sequence[Sequence[int]]],
    batch_size: int = 64,
) -> list[list[Likelihood]]:
    """log p(candidate | clip) for each clip's own candidates.

    Args:
        model: has ``encoder.reorder_encoder_out`` and ``decoder``; in eval mode.
        encoder_out: the encoder's output for B clips.
        candidates: for each of the B clips its candidates as ids without eos; may be empty.
        batch_size: pairs decoded at once, which bounds memory at batch_size * L * V logits.

    Returns Likelihoods in the order of ``candidates``. Equal to scoring every pair alone.
    """
    device = encoder_out["encoder_out"][0].device
    results: list[list[Likelihood]] = [[Likelihood(0.0, 0)] * len(row) for row in candidates]
    for pairs in _chunks(candidates, batch_size):
        targets = [[*candidates[clip][k], EOS] for clip, k in pairs]
        clips = torch.tensor([clip for clip, _ in pairs], device=device)
        expanded = model.encoder.reorder_encoder_out(encoder_out, clips)
        sums = _target_log_likelihoods(model.decoder, expanded, targets, device)
        for (clip, k), target, value in zip(pairs, targets, sums, strict=True):
            results[clip][k] = Likelihood(value, len(target))
    return results


def _chunks(
    candidates: Sequence[Sequence[Sequence[int]]], size: int
) -> Iterator[list[tuple[int, int]]]:
    """(clip, candidate) pairs, those of similar length together so that little is padding."""
    pairs = [(clip, k) for clip, row in enumerate(candidates) for k in range(len(row))]
    pairs.sort(key=lambda pair: len(candidates[pair[0]][pair[1]]))
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def _target_log_likelihoods(
    decoder: nn.Module,
    encoder_out: dict[str, list[torch.Tensor]],
    targets: list[list[int]],
    device: torch.device,
) -> list[float]:
    length = max(map(len, targets))
    target = torch.tensor([t + [PAD] * (length - len(t)) for t in targets], device=device)
    previous = F.pad(target[:, :-1], (1, 0), value=PAD)
    logits, _ = decoder(previous, encoder_out=encoder_out)
    token = -F.cross_entropy(logits.float().transpose(1, 2), target, reduction="none")
    # Targets hold no pad of their own, so what is pad here is filling.
    token = token.masked_fill(target.eq(PAD), 0.0).cpu().numpy()
    return token.sum(axis=1, dtype=np.float64).tolist()  # not on the device: Apple's have no fp64
