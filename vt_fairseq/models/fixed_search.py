"""Greedy and beam search by steps of fixed shapes, of which the host reads a flag per token."""

from dataclasses import replace

import numpy as np

from vt_fairseq.models.kv_cache import POSITIONS
from vt_fairseq.models.search_step import Search, SearchState, Sizes, advance
from vt_fairseq.models.step_graphs import Run, rounded_up
from vt_fairseq.models.t5 import EncoderOut, T5Decoder


def search_log(
    decoder: T5Decoder, encoder_out: EncoderOut, search: Search, start: int
) -> np.ndarray:
    """The log (T, 3, B, C) int32 of a search for the texts of B sources, see ``SearchState``.

    The host waits at most T times, once more where texts may be empty: for whether all have ended,
    and for the log. The token before the first is ``start``.
    """
    rows, source = encoder_out["encoder_padding_mask"][0].shape
    sizes = Sizes(rows, source, POSITIONS)
    if decoder.graphs is not None:  # fewer sizes are captured
        decoder.graphs.begin(decoder)
        sizes = Sizes(rounded_up(rows), rounded_up(source), POSITIONS)
    state, step = _state_and_step(decoder, search, sizes)
    state.begin(decoder, encoder_out, search, start)
    for position in range(search.most + 1):
        if position == state.sizes.room:
            before, sizes = state, replace(state.sizes, room=2 * position)
            state, step = _state_and_step(decoder, search, sizes)
            state.go_on_from(before, decoder)
        step()
        if search.least <= position < search.most and bool(state.done):
            break
    return state.log[: position + 1, :, :rows].to("cpu", copy=True).numpy()


def _state_and_step(decoder: T5Decoder, search: Search, sizes: Sizes) -> tuple[SearchState, Run]:
    def make() -> tuple[SearchState, Run]:
        state = SearchState(decoder, search, sizes)
        return state, lambda: advance(decoder, search, state)

    graphs = decoder.graphs
    return make() if graphs is None else graphs.of((search, sizes), make)
