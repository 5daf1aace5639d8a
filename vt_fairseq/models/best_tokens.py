"""Which tokens may follow a text, and which are the best.

Shapes: R texts, L tokens, B sources, V vocabulary.
"""

import torch

from vt_fairseq.data.tokenizer import PAD

# Tokens in one block of the vocabulary.
BLOCK = 128


def forbid_repetitions(
    likelihoods: torch.Tensor, tokens: torch.Tensor, last: torch.Tensor, size: int
) -> torch.Tensor:
    """(R, V) log-likelihoods; a token that would repeat ``size`` tokens of its text has -inf.

    So does pad, which no text has. fairseq's own code compares the padded end of its buffer, and
    forbids nothing of what it should.

    Args:
        tokens: (R, L) texts from the start token on.
        last: (1,) int64 index of their last token; what is after it does not count.
    """
    if tokens.size(1) < size:
        return likelihoods
    windows = tokens.unfold(1, size, 1)  # (R, L - size + 1, size)
    ends = torch.arange(size - 1, tokens.size(1), device=tokens.device)
    ending = (last - torch.arange(size - 2, -1, -1, device=tokens.device)).clamp(min=0)
    repeats = windows[..., :-1].eq(tokens.index_select(1, ending).unsqueeze(1)).all(-1)
    forbidden = windows[..., -1].masked_fill(~(repeats & (ends <= last)), PAD)
    return likelihoods.scatter(1, forbidden, -torch.inf)


def best_continuations(
    likelihoods: torch.Tensor, totals: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The 2 * beams best continuations of the beams of each source, best first.

    Args:
        likelihoods: (B, beams, V) of the next token.
        totals: (B, beams) summed log-likelihoods so far; None: all beams are alike.

    Returns (B, 2 * beams) each: sums, tokens, and the beams that they continue.
    """
    beams, vocabulary = likelihoods.shape[1:]
    if totals is None:
        likelihoods = likelihoods[:, :1]
    wanted = min(2 * beams, vocabulary - 1)
    best, tokens = top_by_blocks(likelihoods, wanted)
    if totals is not None:
        best = best + totals.unsqueeze(-1)
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
