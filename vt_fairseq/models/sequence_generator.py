"""fairseq's generator without its copies: the beams of a clip share the encoder's output.

fairseq repeats the encoder's output for every beam before the first step and reorders it at every
other. Our decoder takes several targets a source, and its cache follows fairseq's order of them.
"""

from typing import Any

import torch
from fairseq.search import BeamSearch
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator

# Continuations whose best one is found before any of them is compared with the others.
BLOCK = 128


class SharedSources(EnsembleModel):
    """Models whose decoders keep all that they need of the encoder's output in their caches."""

    def reorder_encoder_out(
        self, encoder_outs: list[dict[str, list[torch.Tensor]]], new_order: torch.Tensor
    ) -> list[dict[str, list[torch.Tensor]]]:
        """As it is, one row a source: the caches are reordered, and nothing else is read."""
        return encoder_outs


class BlockwiseBeamSearch(BeamSearch):
    """BeamSearch that looks for the best continuations among the best blocks of the vocabulary."""

    def step(
        self,
        step: int,
        lprobs: torch.Tensor,
        scores: torch.Tensor | None,
        prev_output_tokens: torch.Tensor | None = None,
        original_batch_idxs: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, beams, V) log-likelihoods -> the 2 * beams best of each row, as BeamSearch has them.

        Scores, tokens and beams, (B, 2 * beams) each.
        """
        beams, vocabulary = lprobs.shape[1:]
        if step == 0:  # all beams are alike
            lprobs = lprobs[:, :1]
        wanted = min(2 * beams, vocabulary - 1)
        best, tokens = top_by_blocks(lprobs, wanted)
        if step > 0:
            best = best + scores[:, :, step - 1].unsqueeze(-1)
        best, places = best.flatten(1).topk(min(2 * beams, best[0].numel()))
        tokens = tokens.flatten(1).gather(1, places)
        return best, tokens, places.div(wanted, rounding_mode="floor")


def top_by_blocks(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., V) -> the k highest values and their places, (..., k) each, highest first.

    The k highest are in the k blocks whose highest are the highest, so one pass that only
    compares, which is all that most values meet, takes the place of a selection.
    """
    width = values.size(-1)
    if width % BLOCK or width // BLOCK <= k:
        return values.topk(k)
    blocks = values.unflatten(-1, (-1, BLOCK))
    chosen = blocks.amax(-1).topk(k).indices
    among = blocks.gather(-2, chosen.unsqueeze(-1).expand(*chosen.shape, BLOCK))
    best, places = among.flatten(-2).topk(k)
    block = chosen.gather(-1, places.div(BLOCK, rounding_mode="floor"))
    return best, block * BLOCK + places % BLOCK


class SharedSourceGenerator(SequenceGenerator):
    """fairseq's generator for models of this project; takes and gives what fairseq's does."""

    def __init__(self, models: list[torch.nn.Module], *args: Any, **kwargs: Any):
        super().__init__(SharedSources(models), *args, **kwargs)
        if type(self.search) is BeamSearch:
            self.search = BlockwiseBeamSearch(self.tgt_dict)
