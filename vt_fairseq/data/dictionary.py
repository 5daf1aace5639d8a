"""The fairseq ``Dictionary`` with exactly T5's ids."""

from collections.abc import Iterable
from itertools import groupby

import torch
from fairseq.data import Dictionary

from vt_fairseq.data.tokenizer import EOS, PAD, UNK, Tokenizer
from vt_fairseq.visible_text import visible


class T5Dictionary(Dictionary):
    """One symbol per row of the embedding table; pad 0, eos 1, unk 2, and decoding starts from pad.

    ``string`` gives readable text, so that everything fairseq prints is readable, and on one line
    that is safe to print: a piece of a vocabulary may hold a line break, which would forge another.
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self.tokenizer = tokenizer
        self.symbols = tokenizer.symbols()
        self.count = [1] * len(self.symbols)
        self.indices = {symbol: i for i, symbol in enumerate(self.symbols)}
        self.bos_index, self.pad_index = PAD, PAD
        self.eos_index, self.unk_index = EOS, UNK
        self.bos_word, self.pad_word = self.symbols[PAD], self.symbols[PAD]
        self.eos_word, self.unk_word = self.symbols[EOS], self.symbols[UNK]
        self.nspecial = 3

    def string(
        self, tensor: torch.Tensor | Iterable[int], *unused: object, **unused_too: object
    ) -> str:
        """Text of ids (L,), or of (B, L) with one line per row; added tokens appear by name.

        fairseq's other arguments have nothing to do here: the text is whole already.
        """
        if isinstance(tensor, torch.Tensor) and tensor.dim() == 2:
            return "\n".join(self.string(row) for row in tensor)
        parts: list[str] = []
        ids = (int(i) for i in tensor if i not in (PAD, EOS))
        for is_text, group in groupby(ids, lambda i: i < self.tokenizer.num_pieces):
            run = list(group)
            parts += [self.tokenizer.decode(run)] if is_text else [self.symbols[i] for i in run]
        return visible(" ".join(filter(None, parts)))
