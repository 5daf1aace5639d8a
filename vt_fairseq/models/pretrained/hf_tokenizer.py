"""Our vocabulary as the files of a Hugging Face T5 tokenizer.

``tokenizer.json`` has all that ``spiece.model`` has, so that transformers needs neither
sentencepiece nor protobuf to read it.
"""

import base64
from collections.abc import Iterator
from typing import Any

from vt_fairseq.data.tokenizer import NUM_SENTINELS, SPECIAL_TOKENS, UNK, Tokenizer

PAD_PIECE, EOS_PIECE, UNK_PIECE = "<pad>", "</s>", "<unk>"
_SPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
# Fields of sentencepiece_model.proto, and protobuf's kinds of values.
_NORMALIZER_SPEC, _PRECOMPILED_CHARSMAP = 3, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def added_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the tokens beside the pieces: T5's sentinels, then ours."""
    first = tokenizer.num_pieces
    names = [f"<extra_id_{i}>" for i in reversed(range(NUM_SENTINELS))] + list(SPECIAL_TOKENS)
    return {name: first + i for i, name in enumerate(names)}


def tokenizer_config(tokenizer: Tokenizer, max_length: int) -> dict[str, Any]:
    """``tokenizer_config.json``."""
    return {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": NUM_SENTINELS,
        "pad_token": PAD_PIECE,
        "eos_token": EOS_PIECE,
        "unk_token": UNK_PIECE,
        "additional_special_tokens": list(added_tokens(tokenizer)),
        "model_max_length": max_length,
    }


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """``tokenizer.json``: what turns text into exactly the tokenizer's ids, eos behind them."""
    added = added_tokens(tokenizer)
    special = {PAD_PIECE: 0, EOS_PIECE: 1, UNK_PIECE: 2, **added}
    eos = {"SpecialToken": {"id": EOS_PIECE, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, i in special.items()
        ],
        "normalizer": _normalizer(tokenizer.model_proto),
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, _SPACE],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_sequence("A"), eos],
            "pair": [_sequence("A"), eos, _sequence("B"), eos],
            "special_tokens": {EOS_PIECE: {"id": EOS_PIECE, "ids": [1], "tokens": [EOS_PIECE]}},
        },
        "decoder": _SPACE,
        "model": {
            "type": "Unigram",
            "unk_id": UNK,
            "vocab": [*tokenizer.scored_pieces(), *((name, 0.0) for name in added)],
            "byte_fallback": False,
        },
    }


def _sequence(name: str) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": 0}}


def _normalizer(model_proto: bytes) -> dict[str, Any] | None:
    """Which characters stand for which: a table that the sentencepiece model brings along."""
    for number, spec in _fields(model_proto):
        if number == _NORMALIZER_SPEC:
            for inner, charsmap in _fields(spec):
                if inner == _PRECOMPILED_CHARSMAP and charsmap:
                    table = base64.b64encode(charsmap).decode()
                    return {"type": "Precompiled", "precompiled_charsmap": table}
    return None


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of a protobuf message's fields of bytes; numbers are skipped."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            size, at = _varint(message, at)
            yield number, message[at : at + size]
            at += size
        elif kind == _VARINT:
            _, at = _varint(message, at)
        else:
            at += {_FIXED64: 8, _FIXED32: 4}[kind]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
