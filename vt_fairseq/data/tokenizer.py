"""T5's sentencepiece vocabulary and the tokens that this model adds to it.

Vocabulary (T5, Raffel et al. 2020): the sentencepiece model's ids come first and stay as they are
(pad 0, eos 1, unk 2), then 100 sentinels ``<extra_id_99>`` ... ``<extra_id_0>``, and the embedding
table is padded to a multiple of 128. T5's 32,000 pieces give 32,100 ids and a table of 32,128
rows. The first padding rows become ``[CLS]``, ``[SEP]``, ``[MASK]`` and ``[VIDEO]`` (for T5 32100
to 32103). ``[VIDEO]`` only marks where a video token goes: the encoder puts the video network's
feature there, so its own row is never read.

Text is always encoded as plain text: ``"[MASK]"`` in a caption becomes ordinary pieces.
"""

import io
import os
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

import sentencepiece

from vt_fairseq.errors import UserError
from vt_fairseq.files.bounded_files import MAX_OBJECT, read_file

NUM_SENTINELS = 100
TABLE_MULTIPLE = 128
PAD, EOS, UNK = 0, 1, 2
NORMALIZATION = "nmt_nfkc"  # T5's
WORD_START = "\u2581"
SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[MASK]", "[VIDEO]")


class Tokenizer:
    """Text to T5 ids and back.

    Attributes:
        num_pieces: ids of the sentencepiece model itself.
        table_size: rows of the embedding table, a multiple of 128.
        cls, sep, mask, video: ids of the added tokens.
        model_proto: the sentencepiece model's bytes.
        origin: where it comes from, for messages.
    """

    def __init__(self, model_proto: bytes, origin: str = "the sentencepiece model"):
        """Raise UserError when ``model_proto`` is no sentencepiece model with T5's ids."""
        self.model_proto = model_proto
        self.origin = origin
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model_proto)
        except RuntimeError as error:
            raise UserError(f"{origin} is not a sentencepiece model: {error}") from error
        ids = {
            "pad": self._processor.pad_id(),
            "eos": self._processor.eos_id(),
            "unk": self._processor.unk_id(),
        }
        expected = {"pad": PAD, "eos": EOS, "unk": UNK}
        if ids != expected:
            raise UserError(
                f"{origin} does not have T5's ids: expected {expected}, found {ids}; use the "
                "spiece.model that belongs to the T5 weights, or let vt-prepare train one"
            )
        self.num_pieces = self._processor.GetPieceSize()
        first = self.num_pieces + NUM_SENTINELS
        self.cls, self.sep, self.mask, self.video = range(first, first + len(SPECIAL_TOKENS))
        used = first + len(SPECIAL_TOKENS)
        self.table_size = -(-used // TABLE_MULTIPLE) * TABLE_MULTIPLE

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Read a ``spiece.model``; raise UserError when it is missing or not T5's."""
        path = Path(path)
        if not path.is_file():
            raise UserError(f"no sentencepiece model at {path}")
        return cls(read_file(path, MAX_OBJECT), str(path))

    def encode(self, text: str, max_tokens: int | None = None) -> list[int]:
        """Ids of ``text`` without eos, at most ``max_tokens`` of them."""
        return self._processor.EncodeAsIds(text)[:max_tokens]

    def sentinel(self, number: int) -> int:
        """The id of ``<extra_id_N>``: behind the pieces, the last first, or one of them (mT5)."""
        piece = self._processor.PieceToId(f"{WORD_START}<extra_id_{number}>")
        return piece if piece != UNK else self.num_pieces + NUM_SENTINELS - 1 - number

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ``ids``; stops at eos, leaves out pad and every id that is not a piece."""
        before_eos = takewhile(lambda i: i != EOS, map(int, ids))
        return self._processor.DecodeIds([i for i in before_eos if PAD != i < self.num_pieces])

    def symbols(self) -> list[str]:
        """One symbol per row of the embedding table, in the order of the ids."""
        names = [self._processor.IdToPiece(i) for i in range(self.num_pieces)]
        names += [f"<extra_id_{i}>" for i in reversed(range(NUM_SENTINELS))]
        names += SPECIAL_TOKENS
        names += [f"<unused_{i}>" for i in range(self.table_size - len(names))]
        return names


def least_pieces(texts: Iterable[str]) -> int:
    """Of a vocabulary that spells ``texts``: T5's three ids, and one for each character."""
    normalize = sentencepiece.SentencePieceNormalizer(rule_name=NORMALIZATION).Normalize
    characters = set[str]().union(*map(normalize, texts))
    return len((PAD, EOS, UNK)) + len(characters - {" "} | {WORD_START})


def check_size(texts: Iterable[str], max_pieces: int) -> None:
    """Raise UserError where so few pieces cannot spell ``texts``."""
    if (least := least_pieces(texts)) > max_pieces:
        raise UserError(
            f"a vocabulary of {max_pieces:,} pieces is too small: one for each character of the "
            f"training texts takes at least {least:,}"
        )


def train_vocabulary(texts: Iterable[str], max_pieces: int) -> bytes:
    """A sentencepiece unigram model over ``texts`` with T5's ids, for corpora without T5's.

    Returns the model's bytes; it has at most ``max_pieces`` pieces (fewer when the texts do not
    hold that many). Raise UserError when there is no text, or it has more characters.
    """
    lines = [line for line in (" ".join(text.split()) for text in texts) if line]
    if not lines:
        raise UserError("cannot train a vocabulary: the training split has no text")
    check_size(lines, max_pieces)
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines),
        model_writer=out,
        vocab_size=max_pieces,
        hard_vocab_limit=False,
        pad_id=PAD,
        eos_id=EOS,
        unk_id=UNK,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        character_coverage=1.0,
        normalization_rule_name=NORMALIZATION,
        minloglevel=2,
        num_threads=1,  # the result must not depend on the machine
    )
    return out.getvalue()
