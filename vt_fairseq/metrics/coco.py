"""The COCO caption toolkit's BLEU, METEOR, ROUGE-L and CIDEr (extra ``coco``).

Numbers are times 100, as papers print them, CIDEr's too. BLEU and METEOR come from counts summed
over the corpus; ROUGE-L and CIDEr are means over clips. CIDEr is the toolkit's CIDEr-D: its inverse
document frequencies come from the references that are scored, so a corpus of one clip has CIDEr 0.
"""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from vt_fairseq.errors import UserError
from vt_fairseq.metrics import coco_java
from vt_fairseq.metrics.captions import BLEU_ORDER, check_captions
from vt_fairseq.metrics.measure import Measure, mean_measure

INSTALL = "pip install 'vt_fairseq[coco]'"
TOKENIZERS = ("ptb", "none")
BLEU_NAMES = tuple(f"coco_bleu{n}" for n in range(1, BLEU_ORDER + 1))
NAMES = (*BLEU_NAMES, "coco_meteor", "coco_rouge_l", "coco_cider")
_TOKENIZED = {
    "ptb": "tok:Stanford PTB 3.4.1, punctuation dropped|case:lower",
    "none": "tok:none (nlg-eval)|case:mixed",
}


def left_out(tokenizer: str = "ptb") -> dict[str, str]:
    """{metric: reason} of those in NAMES that cannot be computed on this machine."""
    if coco_java.package_folder() is None:
        return dict.fromkeys(NAMES, f"left out: {INSTALL}")
    if coco_java.java() is None:
        names = NAMES if tokenizer == "ptb" else ("coco_meteor",)
        return dict.fromkeys(names, f"left out: no java on the PATH; {INSTALL} brings one")
    return {}


def coco_measures(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str = "ptb"
) -> list[Measure]:
    """Measures of NAMES, but for those that are ``left_out``.

    Args:
        predictions: one text per clip; "" where there is none.
        references: the right texts of each clip, one or more; their number may differ.
        tokenizer: one of TOKENIZERS; "none" splits at white space, as nlg-eval does.

    Raises ValueError as ``caption_measures`` does; UserError when no reference has a word, and
    JavaError.
    """
    check_captions(predictions, references)
    missing = left_out(tokenizer)
    if len(missing) == len(NAMES):
        return []
    predictions, references = _tokenized(predictions, references, tokenizer)
    if not any(text for row in references for text in row):
        raise UserError("no reference has a word in it")
    how = _signature(references, tokenizer)
    measures = [_bleu(predictions, references, how)]
    if "coco_meteor" not in missing:
        measures.append(_meteor(predictions, references, how))
    return measures + _rouge_and_cider(predictions, references, how)


def _tokenized(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str
) -> tuple[list[str], list[list[str]]]:
    # References first, as in the toolkit; one start of Java does for both.
    flat = [*(text for texts in references for text in texts), *predictions]
    done = iter(
        coco_java.ptb_tokenize(flat) if tokenizer == "ptb" else map(coco_java.one_line, flat)
    )
    tokenized = [[next(done) for _ in texts] for texts in references]
    return list(done), tokenized


def _signature(references: Sequence[Sequence[str]], tokenizer: str) -> str:
    counts = set(map(len, references))
    count = str(counts.pop()) if len(counts) == 1 else "var"
    return f"pycocoevalcap {version('pycocoevalcap')}|nrefs:{count}|{_TOKENIZED[tokenizer]}"


def _bleu(predictions: Sequence[str], references: Sequence[Sequence[str]], how: str) -> Measure:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=BLEU_ORDER)
    for prediction, texts in zip(predictions, references, strict=True):
        scorer += (prediction, texts)
    rows = [
        [*row["correct"], *row["guess"], row["testlen"], _closest(row["reflen"], row["testlen"])]
        for row in scorer.ctest
    ]
    signature = f"{how}|smooth:none|reference length:closest"
    return Measure(
        np.array(rows, dtype=np.float64), corpus_bleu, dict.fromkeys(BLEU_NAMES, signature)
    )


def _closest(lengths: Sequence[int], to: int) -> int:
    return min((abs(length - to), length) for length in lengths)[1]


def corpus_bleu(rows: np.ndarray) -> dict[str, float]:
    """The toolkit's BLEU-1 to 4 of counts (matched n-grams, n-grams, lengths) in its rows.

    The toolkit adds 1e-15 to matches and 1e-9 to counts, so nothing is divided by zero and a
    corpus without a match is not quite 0.
    """
    tiny, small = 1e-15, 1e-9
    total = rows.sum(axis=0)
    precisions = (total[:BLEU_ORDER] + tiny) / (total[BLEU_ORDER : 2 * BLEU_ORDER] + small)
    ratio = (total[-2] + tiny) / (total[-1] + small)
    brevity = np.exp(min(0.0, 1 - 1 / ratio))
    orders = np.arange(1, BLEU_ORDER + 1)
    bleus = 100 * brevity * np.cumprod(precisions) ** (1 / orders)
    return dict(zip(BLEU_NAMES, bleus.tolist(), strict=True))


def _meteor(predictions: Sequence[str], references: Sequence[Sequence[str]], how: str) -> Measure:
    rows = coco_java.meteor_statistics(predictions, references)
    return Measure(
        rows,
        lambda rows: {"coco_meteor": 100 * coco_java.meteor(rows)},
        {"coco_meteor": f"{how}|METEOR 1.5 -l en -norm"},
    )


def _rouge_and_cider(
    predictions: Sequence[str], references: Sequence[Sequence[str]], how: str
) -> list[Measure]:
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    # The toolkit's two dictionaries: references and results by clip.
    by_clip = dict(enumerate(references)), {i: [text] for i, text in enumerate(predictions)}
    _, rouge = Rouge().compute_score(*by_clip)
    _, cider = Cider().compute_score(*by_clip)
    idf = f"idf:these {len(references)} clips' references"
    return [
        mean_measure("coco_rouge_l", rouge, f"{how}|beta:1.2|mean over clips"),
        mean_measure("coco_cider", cider, f"{how}|CIDEr-D, x100|n:4|sigma:6|{idf}"),
    ]
