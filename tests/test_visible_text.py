"""What is printed and logged acts on no terminal; JSON keeps the true text and is JSON."""

import ast
import io
import json
import logging
import sys
import unicodedata
from pathlib import Path

import pytest

from vt_fairseq import visible_text
from vt_fairseq.data.dictionary import T5Dictionary
from vt_fairseq.data.tokenizer import Tokenizer, train_vocabulary
from vt_fairseq.visible_text import VisibleRecord, json_text, say, visible

PACKAGE = Path(visible_text.__file__).parent
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
FORGED = "2026-11-28 12:00:00 | INFO | train | done"
HOSTILE = f"\x1b]0;owned\x07\x1b[2J\r\n{FORGED}\x9b31m\u202e\u2028\udc80"


def acts(character: str) -> bool:
    """Whether Unicode calls it a control, a line break, a half, or a change of direction."""
    of_category = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return of_category or unicodedata.bidirectional(character) in DIRECTIONS


def raw(text: str) -> str:
    """The characters of ``text`` that act on a terminal, but for line breaks and tabs."""
    return "".join(c for c in text if c not in "\n\t" and acts(c))


def test_exactly_the_characters_that_act_on_a_terminal_are_spelled_out_as_python_does():
    characters = list(map(chr, range(sys.maxunicode + 1)))
    harmless = "".join(c for c in characters if not acts(c))
    assert visible(harmless) == harmless
    for character in filter(acts, characters):
        shown = visible(character)
        assert shown.isascii() and ast.literal_eval(f"'{shown}'") == character
    assert visible(visible(HOSTILE)) == visible(HOSTILE)


def test_a_line_that_is_printed_stays_one_line(capsys):
    say(HOSTILE)
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and not raw(out)


def stream() -> io.TextIOWrapper:
    made = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n")
    made.reconfigure(encoding="visible_utf-8", errors="backslashreplace")
    return made


def written(made: io.TextIOWrapper) -> str:
    made.flush()
    return made.buffer.getvalue().decode()


def test_a_guarded_stream_passes_line_breaks_tabs_and_the_return_that_begins_a_progress_bar():
    made = stream()
    made.write("\r 50%|█\ta\n")
    made.write(HOSTILE)
    text = written(made)
    assert text.startswith("\r 50%|█\ta\n") and not raw(text[1:])
    assert text.count("\n") == 2  # of a text that is printed as it is, line breaks are meant


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_guarded_stream_keeps_its_encoding_and_takes_every_text(encoding):
    made = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    made.reconfigure(encoding=f"visible_{encoding}", errors="backslashreplace")
    made.write("é漢\x9b\udc80")
    made.flush()
    expected = {"ascii": "\\xe9\\u6f22", "latin-1": "é\\u6f22", "utf-8": "é漢"}[encoding]
    assert made.buffer.getvalue() == (expected + "\\x9b\\udc80").encode(encoding)


@pytest.fixture
def log():
    """A logger with fairseq's format, and what it has written."""
    logging.setLogRecordFactory(VisibleRecord)
    made = stream()
    handler = logging.StreamHandler(made)
    form = "%(asctime)s | %(levelname)s | %(name)s | %(message)s"
    handler.setFormatter(logging.Formatter(form, "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("hostile")
    logger.propagate = False
    logger.addHandler(handler)
    yield logger, lambda: written(made)
    logger.removeHandler(handler)


def test_a_message_is_one_line_whether_the_text_came_in_it_or_as_an_argument(log):
    logger, text = log
    logger.warning(HOSTILE)
    logger.warning("cannot read clip %s: %s", HOSTILE, HOSTILE)
    logger.warning(f"{HOSTILE}")  # as fairseq does
    assert text().count("\n") == 3 and not raw(text())
    assert text().count(f"\\n{FORGED}\\x9b31m") == 4


class Model:
    """An object that is logged as fairseq logs the model."""

    def __repr__(self) -> str:
        return f"Model(\n  {HOSTILE}\n)"


def test_lines_of_an_object_and_of_a_traceback_pass_for_no_record(log):
    logger, text = log
    logger.warning(Model())
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("a defect")
    lines = text().splitlines()
    assert [line[20:].strip() for line in lines if not line.startswith("  ")] == [
        "| WARNING | hostile | Model(",
        "| ERROR | hostile | a defect",
    ]
    assert any("Traceback" in line for line in lines) and not raw(text())


def test_json_keeps_the_true_text_and_is_safe_to_print():
    value = {HOSTILE: [HOSTILE, 1.5, None, "é漢"]}
    text = json_text(value)
    assert json.loads(text) == value and not raw(text) and "\n" not in text and "é漢" in text
    for number in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError):
            json_text([number])


def test_a_piece_of_a_vocabulary_that_holds_a_line_break_forges_no_hypothesis():
    sound = train_vocabulary(["abcdefgh ijklmnop"] * 9, 40)
    piece, hostile = b"ijklmnop", b"\nH-0\t\x1b[2"
    assert sound.count(piece) == 1 and len(piece) == len(hostile)
    tokenizer = Tokenizer(sound.replace(piece, hostile))
    ids = [i for i in range(tokenizer.num_pieces) if "\n" in tokenizer.decode([i])]
    shown = T5Dictionary(tokenizer).string(ids)
    assert ids and "\\nH-0\\t\\x1b[2" in shown and "\n" not in shown and not raw(shown)


# --- no way around -------------------------------------------------------------------------------


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


MODULES = sorted(PACKAGE.rglob("*.py"))


def test_no_module_prints_but_by_the_function_that_makes_it_safe():
    printing = {p.name for p in MODULES for name, _ in calls(p) if name in ("print", "pprint")}
    assert printing == {"visible_text.py"}
    for path in MODULES:
        for name, call in calls(path):
            if name.endswith("tqdm.write"):
                assert "visible(" in ast.unparse(call.args[0]), path
            assert not name.startswith(("sys.stdout.write", "sys.stderr.write")), path


# A value of the user's JSON in a message, and what a checksum is taken of.
WRITE_NO_JSON = {("zero", "config.py"), ("pretrained", "exported.py")}


def test_no_module_writes_json_that_could_hold_nan():
    for path in MODULES:
        if path.parts[-2:] in WRITE_NO_JSON:
            continue
        for name, call in calls(path):
            if name.endswith(("json.dumps", "json.dump", "json_dumps")):
                keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
                assert keywords.get("allow_nan") == "False", f"{path} line {call.lineno}"
