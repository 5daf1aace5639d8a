"""Rows of an embedding table for our vocabulary, from the rows that a T5 has."""

from pathlib import Path

import torch

from vt_fairseq.data.tokenizer import Tokenizer
from vt_fairseq.errors import UserError

# Each new token starts as the sentinel <extra_id_N>: T5 knows sentinels as marks in its input that
# are not words, and no target of ours has them, so they take no probability from any word. [MASK]
# starts as the sentinel that replaced the first removed text in T5's pretraining.
SENTINELS = {"[MASK]": 0, "[SEP]": 1, "[CLS]": 2}


def check_vocabulary(rows: int, tokenizer: Tokenizer, weights: Path) -> None:
    """Raise UserError where a table of ``rows`` rows cannot be that of the tokenizer's T5."""
    if not tokenizer.num_pieces <= rows <= tokenizer.table_size:
        raise UserError(
            f"{tokenizer.origin} has {tokenizer.num_pieces} pieces, which make a table of "
            f"{tokenizer.num_pieces} to {tokenizer.table_size} rows, and {weights} has one of "
            f"{rows}: expected the spiece.model that belongs to the T5 weights"
        )


def output_rows(table: torch.Tensor, tokenizer: Tokenizer) -> torch.Tensor:
    """T5's rows (V', C) -> (V, C) fp32; rows that T5 lacks start as the mean of its pieces' rows.

    A row at the mean has an average logit, so it does not stand out in the output.
    """
    table = table.float()
    missing = tokenizer.table_size - len(table)
    if not missing:
        return table
    mean = table[: tokenizer.num_pieces].mean(dim=0, keepdim=True)
    return torch.cat((table, mean.expand(missing, -1)))


def input_rows(table: torch.Tensor, tokenizer: Tokenizer) -> tuple[torch.Tensor, dict[str, str]]:
    """``output_rows`` with the new tokens' rows, and in words what each of these starts from."""
    rows = output_rows(table, tokenizer).clone()
    origins = {}
    ids = {"[MASK]": tokenizer.mask, "[SEP]": tokenizer.sep, "[CLS]": tokenizer.cls}
    for token, number in SENTINELS.items():
        sentinel = tokenizer.sentinel(number)
        known = sentinel < len(table)
        if known:
            rows[ids[token]] = rows[sentinel]
        origins[token] = f"the row of <extra_id_{number}>" if known else "the mean of all pieces"
    own = tokenizer.video < len(table)
    origins["[VIDEO]"] = "T5's unused row" if own else "the mean of all pieces"
    return rows, origins
