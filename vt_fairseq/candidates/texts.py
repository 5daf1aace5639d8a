"""Candidate texts as the decoder scores them: no longer than the texts that it was trained on."""

import logging
from collections.abc import Sequence

from vt_fairseq.data.prompts import Prompt
from vt_fairseq.data.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def candidate_ids(
    tokenizer: Tokenizer, prompt: Prompt, texts: Sequence[str]
) -> tuple[list[list[int]], int]:
    """The ids of each text, cut as the prompt's targets were in training; and how many were cut."""
    longest = prompt.max_target_tokens
    ids = [tokenizer.encode(text) for text in texts]
    return [one[:longest] for one in ids], sum(len(one) > longest for one in ids)


def warn_of_cuts(cut: int, total: int, prompt: Prompt, whose: str = "") -> None:
    """Log that ``cut`` of ``total`` candidates were too long; ``whose`` is, say, " of row 7"."""
    if cut:
        logger.warning(
            "%d of %d candidates%s are cut to %d tokens, the longest that the model was trained on",
            *(cut, total, whose, prompt.max_target_tokens),
        )
