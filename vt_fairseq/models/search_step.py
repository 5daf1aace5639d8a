"""A step of greedy or beam search that is the same operations on the same memory every time.

A graphics card can replay it as one launch, and nothing in it waits for a value. It does what
fairseq's search does, but keeps sources whose texts have ended; ``hypotheses`` reads its log.

Shapes: B sources, beams, R = B * beams rows, C = 2 * beams candidates, V vocabulary, L positions
there is room for.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from vt_fairseq.models.best_tokens import best_continuations, forbid_repetitions
from vt_fairseq.models.fixed_cache import FixedCache, FixedSources
from vt_fairseq.models.t5 import EncoderOut, T5Decoder

SCORE, TOKEN, BEAM = range(3)  # in the log
# Rows of the table of penalties: where no text may end yet, and where every one has to.
TOO_SHORT, LAST = 0, 2


@dataclass(frozen=True)
class Search:
    """How texts are searched.

    Attributes:
        beams: of every source; 1 is greedy search.
        least: tokens that a text has at least, without its end.
        most: the same, at most.
        pad, eos, unk: ids of padding, the end of a text and what the vocabulary cannot spell.
        unk_penalty: what is taken off the log-likelihood of the last.
        no_repeat: no sequence of so many tokens appears twice in a text; 0: any may.
        temperature: what logits are divided by.
    """

    beams: int
    least: int
    most: int
    pad: int
    eos: int
    unk: int
    unk_penalty: float = 0.0
    no_repeat: int = 0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise ValueError(f"at least {self.least} tokens are more than at most {self.most}")


@dataclass(frozen=True)
class Sizes:
    """Of a state: B, S, and L."""

    sources: int
    source: int
    room: int


class SearchState:
    """All that a step reads and writes; the tensors stay where they are.

    Attributes:
        penalties: (3, V) fp32, added to log-likelihoods: below ``least`` tokens, from there on, and
            at ``most``.
        log: (L, 3, B, C) int32: of every position the C best continuations of each source, best
            first: their summed log-likelihoods (bits of a float), tokens, and the beams they
            continue.
        done: () bool, whether ``beams`` texts of each source have ended.
    """

    def __init__(self, decoder: T5Decoder, search: Search, sizes: Sizes):
        like, layers = decoder.embed_tokens.weight, len(decoder.layers)
        rows, heads, width = sizes.sources * search.beams, *decoder.heads_and_width()
        self.sizes = sizes
        sources = FixedSources(like, (layers, sizes.sources, heads, sizes.source, width))
        self.cache = FixedCache(sources, like, (layers, rows, sizes.room, heads, width))
        self.biases = like.new_zeros(sizes.room, 1, heads, 1, sizes.room)
        self.penalties = torch.zeros(3, len(decoder.output_table), device=like.device)
        self.tokens = like.new_zeros(rows, sizes.room + 1, dtype=torch.int64)
        self.last_tokens = like.new_zeros(rows, dtype=torch.int64)
        self.totals = torch.zeros(sizes.sources, search.beams, device=like.device)
        self.ended = like.new_zeros(sizes.sources, dtype=torch.int64)
        self.done = like.new_zeros((), dtype=torch.bool)
        shape = sizes.room, 3, sizes.sources, 2 * search.beams
        self.log = like.new_zeros(shape, dtype=torch.int32)

    def begin(
        self, decoder: T5Decoder, encoder_out: EncoderOut, search: Search, start: int
    ) -> None:
        """Begin the texts of at most B sources with the token ``start``."""
        self.cache.sources.begin(*decoder.source_of(encoder_out))
        self.cache.begin()
        self.biases.copy_(decoder.step_biases(self.sizes.room))
        self.penalties.zero_()
        self.penalties[:, search.unk].fill_(-search.unk_penalty)
        self.penalties[LAST].fill_(-torch.inf)
        self.penalties[LAST, search.eos].fill_(0)
        self.penalties[TOO_SHORT, search.eos].fill_(-torch.inf)
        self.penalties[:, search.pad].fill_(-torch.inf)
        self.tokens.fill_(start)
        self.last_tokens.fill_(start)
        self.totals.fill_(-torch.inf)  # all beams of a source are alike: one begins
        self.totals[:, 0].zero_()
        self.ended.fill_(search.beams)
        self.ended[: encoder_out["encoder_out"][0].size(1)].zero_()
        self.done.zero_()

    def go_on_from(self, other: "SearchState", decoder: T5Decoder) -> None:
        """Take over all of a state with less room."""
        self.cache.go_on_from(other.cache)
        self.biases.copy_(decoder.step_biases(self.sizes.room))
        for name in ("penalties", "last_tokens", "totals", "ended", "done"):
            getattr(self, name).copy_(getattr(other, name))
        self.tokens[:, : other.tokens.size(1)] = other.tokens
        self.log[: len(other.log)] = other.log


def advance(decoder: T5Decoder, search: Search, state: SearchState) -> None:
    """Decode one more token of every text of ``state``."""
    position, beams = state.cache.position, search.beams
    bias = state.biases.index_select(0, position).squeeze(0)
    logits = decoder.next_logits(state.last_tokens, bias, state.cache)
    if search.temperature != 1:
        logits = logits / search.temperature
    likelihoods = F.log_softmax(logits, -1, dtype=torch.float32)
    phase = (position >= search.least).long() + (position >= search.most)
    likelihoods = likelihoods + state.penalties.index_select(0, phase)
    if search.no_repeat:
        likelihoods = forbid_repetitions(likelihoods, state.tokens, position, search.no_repeat)
    scores, tokens, parents = best_continuations(
        likelihoods.unflatten(0, (-1, beams)), state.totals
    )
    found = torch.stack((scores.view(torch.int32), tokens.int(), parents.int()))
    state.log.index_copy_(0, position, found.unsqueeze(0))
    ends = tokens.eq(search.eos) & scores.ne(-torch.inf)
    state.ended.add_(ends[:, :beams].sum(1))
    state.done.copy_((state.ended >= beams).all())
    # The first that do not end go on.
    places = torch.arange(2 * beams, device=ends.device) + 2 * beams * ends
    chosen = places.topk(beams, largest=False).indices
    state.totals.copy_(scores.gather(1, chosen))
    state.last_tokens.copy_(tokens.gather(1, chosen).flatten())
    if beams > 1:
        first = torch.arange(0, len(state.tokens), beams, device=ends.device)
        order = (parents.gather(1, chosen) + first.unsqueeze(1)).flatten()
        state.cache.reorder(order)
        if search.no_repeat:
            state.tokens.copy_(state.tokens.index_select(0, order))
    position.add_(1)
    if search.no_repeat:
        state.tokens.index_copy_(1, position, state.last_tokens.unsqueeze(1))
