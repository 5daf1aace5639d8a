"""fairseq's generator without its copies: the beams of a clip share the encoder's output.

fairseq repeats the encoder's output for every beam before the first step and reorders it at every
later one. Our decoder takes several targets per source, and its cache follows their order.
"""

from typing import Any

import torch
from fairseq.search import BeamSearch, Search
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator

from vt_fairseq.errors import UserError

# Tokens in one block of the vocabulary.
BLOCK = 128


class SharedSources(EnsembleModel):
    """Models whose decoders' caches hold all that they need of the encoder's output.

    Attributes:
        no_repeat: no sequence of so many tokens appears twice in a text; 0: any may.
    """

    no_repeat = 0

    def forward_encoder(self, net_input: dict[str, Any]) -> list[dict[str, list[torch.Tensor]]]:
        """The models' outputs; of one model that of ``encoder_out``, where it has run before."""
        given = net_input.get("encoder_out")
        return super().forward_encoder(net_input) if given is None else [given]

    def reorder_encoder_out(
        self, encoder_outs: list[dict[str, list[torch.Tensor]]], new_order: torch.Tensor
    ) -> list[dict[str, list[torch.Tensor]]]:
        """The outputs unchanged, one row per source: only the caches are read, and reordered."""
        return encoder_outs

    def forward_decoder(self, tokens: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """fairseq's; raises UserError for scores that are not numbers.

        The generator would take them for impossible tokens, and end in an assertion when none is
        left. One column is enough: a softmax over a row with such a value has no other.
        """
        found = super().forward_decoder(tokens, *args, **kwargs)
        if found[0][:, 0].isnan().any():
            raise UserError(
                "the model's scores of the next token are not finite numbers: the model has "
                "diverged, or its numbers pass fp16's range (take bf16 or fp32)"
            )
        if self.no_repeat:
            forbid_repetitions(found[0], tokens, self.no_repeat)
        return found


def forbid_repetitions(lprobs: torch.Tensor, tokens: torch.Tensor, size: int) -> None:
    """Set log-likelihoods (R, V) of tokens that would repeat ``size`` of ``tokens`` (R, L) to -inf.

    fairseq's own code compares the padded end of its buffer, and forbids nothing of what it should.
    """
    if tokens.size(1) < size:
        return
    before = tokens.unfold(1, size, 1)  # (R, L - size + 1, size)
    last = tokens[:, tokens.size(1) - size + 1 :]
    rows, places = before[..., :-1].eq(last.unsqueeze(1)).all(-1).nonzero(as_tuple=True)
    lprobs[rows, before[rows, places, -1]] = -torch.inf


class BlockwiseBeamSearch(BeamSearch):
    """BeamSearch that looks for the best continuations among the best blocks of the vocabulary."""

    def step(
        self,
        step: int,
        lprobs: torch.Tensor,
        scores: torch.Tensor,
        prev_output_tokens: torch.Tensor | None = None,
        original_batch_idxs: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, beams, V) log-likelihoods -> what BeamSearch returns: the 2 * beams best of each row.

        These are scores, tokens and beams, (B, 2 * beams) each.
        """
        beams, vocabulary = lprobs.shape[1:]
        if step == 0:  # all beams are alike
            lprobs = lprobs[:, :1]
        wanted = min(2 * beams, vocabulary - 1)
        best, tokens = top_by_blocks(lprobs, wanted)
        if step > 0:
            best = best + scores[:, :, step - 1].unsqueeze(-1)
        best, indices = best.flatten(1).topk(min(2 * beams, best[0].numel()))
        tokens = tokens.flatten(1).gather(1, indices)
        return best, tokens, indices.div(wanted, rounding_mode="floor")


def top_by_blocks(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., V) -> the k highest values and their indices, (..., k) each, as ``topk`` gives them.

    They lie in the k blocks with the highest maxima. Most values are only compared within their
    block, which is faster than a selection among all.
    """
    width = values.size(-1)
    if width % BLOCK or width // BLOCK <= k:
        return values.topk(k)
    blocks = values.unflatten(-1, (-1, BLOCK))
    chosen = blocks.amax(-1).topk(k).indices
    among = blocks.gather(-2, chosen.unsqueeze(-1).expand(*chosen.shape, BLOCK))
    best, indices = among.flatten(-2).topk(k)
    block = chosen.gather(-1, indices.div(BLOCK, rounding_mode="floor"))
    return best, block * BLOCK + indices % BLOCK


class SharedSourceGenerator(SequenceGenerator):
    """fairseq's generator for models of this project; takes and gives what fairseq's does."""

    search: Search

    def __init__(
        self,
        models: list[torch.nn.Module],
        *args: Any,
        no_repeat_ngram_size: int = 0,
        **kwargs: Any,
    ):
        sources = SharedSources(models)
        sources.no_repeat = no_repeat_ngram_size
        super().__init__(sources, *args, **kwargs)
        if type(self.search) is BeamSearch:
            self.search = BlockwiseBeamSearch(self.tgt_dict)
