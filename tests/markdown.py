"""What the documents say that a test can check: links, names of files, options, commands, code."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```\s*$", re.DOTALL | re.MULTILINE)


def documents() -> list[Path]:
    """Every page of the project, relative to its root."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]
    return sorted(page.relative_to(ROOT) for page in pages)


@dataclass(frozen=True)
class Block:
    """One fenced code block: its language ("" where none is named) and text."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block is, from a first line ``# folder/file.py``."""
        match = re.match(r"# (\S+/\S+\.py)\n", self.text)
        return match and match[1]


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page."""
    return [Block(*found) for found in _FENCE.findall((ROOT / page).read_text(encoding="utf-8"))]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    """What stands between backticks in a page's prose, on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def links(page: Path) -> list[str]:
    """Targets of the links that do not lead out of the project."""
    found = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page))
    return [target for target in found if not re.match(r"\w+:", target)]


def anchors(page: Path) -> set[str]:
    """What ``#anchor`` may name: the headings as GitHub turns them into names."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def command_lines(page: Path) -> Iterator[list[str]]:
    """The commands of a page's shell blocks, in order, as words; comments are left out."""
    for block in blocks(page):
        if block.language in ("", "bash", "sh", "console"):
            yield from split_commands(block.text)


def split_commands(text: str) -> Iterator[list[str]]:
    """Words of each command of a shell text that begins with a command of ours or a launcher."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s\|\s|\s&&\s", line):
            words = _words(re.sub(r"\s>\s\S+$|\s2>&1$", "", part))
            # A command alone stands in a list of files or commands.
            if words[1:] and re.fullmatch(r"(vt|fairseq)-\w+|torchrun|srun|deepspeed", words[0]):
                yield words


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # not a shell line: a row of a file, a line of a table
        return []
