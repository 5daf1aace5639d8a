"""What a decoder keeps between the steps of generation: keys and values.

Shapes: B sources, R targets (the beams of B sources, R = B * beams), H heads, D width of a head,
S source, P positions decoded, N positions of this call, layers.
"""

import torch

KeysValues = tuple[torch.Tensor, torch.Tensor]

POSITIONS = 32  # room at first; doubled when it is used up


class KeyValueCache:
    """Keys and values of R targets, and of B sources, which the targets of a source share.

    Args:
        sources: for every layer keys and values (B, H, S, D).
        source_bias: (B, 1, 1, S).

    Attributes:
        length: P, which grows with the last layer.
    """

    def __init__(self, sources: list[KeysValues], source_bias: torch.Tensor):
        self.sources = sources
        self.source_bias = source_bias
        self.length = 0
        _, heads, _, width = sources[0][0].shape
        # (room, layers, 2, R, H, D); R is known when the first keys come.
        self._targets = sources[0][0].new_empty(0, len(sources), 2, 0, heads, width)
        self._spare = self._targets  # where it is as large, another order is written to it

    def extended(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> KeysValues:
        """Keep a layer's (R, H, N, D) keys and values; return all so far, (R, H, P + N, D) each."""
        end = self.length + keys.size(2)
        if end > len(self._targets):
            self._grow(max(POSITIONS, 2 * len(self._targets), end), rows=len(keys))
        kept = self._targets[:end, layer]
        for index, new in enumerate((keys, values)):
            kept[self.length :, index] = new.detach().permute(2, 0, 1, 3)
        if layer == len(self.sources) - 1:
            self.length = end
        return kept[:, 0].permute(1, 2, 0, 3), kept[:, 1].permute(1, 2, 0, 3)

    def reorder(self, new_order: torch.Tensor) -> None:
        """Targets in ``new_order`` (R',), which may repeat or leave out targets.

        The targets of a source stay side by side, as many as they were.
        """
        rows = self._targets.size(3)
        if _is_order_of(rows, new_order):  # every step of greedy search
            return
        beams = rows // self.source_bias.size(0)
        if len(new_order) != rows:
            self._targets = self._targets.index_select(3, new_order)
        else:
            if self._spare.shape != self._targets.shape:
                self._spare = torch.empty_like(self._targets)
            used, spare = self._targets[: self.length], self._spare[: self.length]
            torch.index_select(used, 3, new_order, out=spare)
            self._targets, self._spare = self._spare, self._targets
        order = new_order[::beams] // beams
        if not _is_order_of(self.source_bias.size(0), order):
            self.sources = [(k[order], v[order]) for k, v in self.sources]
            self.source_bias = self.source_bias[order]

    def _grow(self, room: int, rows: int) -> None:
        _, layers, two, _, heads, width = self._targets.shape
        grown = self._targets.new_empty(room, layers, two, rows, heads, width)
        if self.length:
            grown[: self.length] = self._targets[: self.length]
        self._targets, self._spare = grown, grown[:0]


def _is_order_of(rows: int, order: torch.Tensor) -> bool:
    return len(order) == rows and torch.equal(order, torch.arange(rows, device=order.device))
