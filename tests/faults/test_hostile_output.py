"""Hostile names and texts through every command: nothing raw on the terminal, no forged line.

Names of files and folders, ids, captions, questions, candidates, class names, paths of checkpoints
and tensors hold escape sequences, line breaks, directional overrides and bytes that are no text.
Each command is run as users run it; of what it prints, every character is looked at. Its JSON is
parsed strictly, and holds the true texts.

python -m pytest tests/faults/test_hostile_output.py --campaign
"""

import json
import os
import signal
import subprocess
import unicodedata
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from tests import weights
from tests.commands import MODULES, PLUGIN, TINY, command_line, environment, run
from tests.corpora import write_jsonl
from tests.media import write_numbered
from vt_fairseq.data.manifest import DataDirectory

FORGED = "2026-11-28 12.00.00 | INFO | forged | a line"  # fairseq splits DATA at colons
HOSTILE = {
    "escapes": f"\x1b]0;owned\x07\x1b[2J\x1b[31m\n{FORGED}\n",
    "C1 and returns": f"\x9b31m\x85\r{FORGED}\r\x7f\b\x00"[:-1] + f"\n{FORGED}",
    "directions": f"\u202egpm.\u2066evil\u2028{FORGED}\u2029\n{FORGED}",
}
DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
SAMPLE = "escapes"
SECONDS = 900  # of a command, on a machine that does other things, too


def acts(character: str) -> bool:
    """Whether a terminal or a viewer of logs would act on it."""
    of_category = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return of_category or unicodedata.bidirectional(character) in DIRECTIONS


@dataclass
class Terminal:
    """Runs commands in ``folder`` and looks at all that they print."""

    folder: Path
    commands: dict[str, int] = field(default_factory=dict)
    characters: int = 0

    def __call__(self, command: str, *arguments: str | Path, code: int | None = 0) -> str:
        """What the command printed; ``code`` None: any but 0, with one line as its error."""
        return self.looked_at(command, self._run(command, arguments, code), arguments)

    def looked_at(self, command: str, text: str, arguments: tuple[str | Path, ...]) -> str:
        """``text``, which the command printed and of which nothing is raw or forged."""
        raw = {c for c in text if acts(c) and c not in "\n\t"}
        assert not raw, f"{command} {arguments}: {raw} in {text[-2000:]!r}"
        forged = [line for line in text.split("\n") if line.lstrip().startswith(FORGED)]
        assert not forged, f"{command} {arguments}: {text[-2000:]!r}"
        assert "Traceback" not in text, text[-3000:]
        self.commands[command] = self.commands.get(command, 0) + 1
        self.characters += len(text)
        return text

    def _run(self, command: str, arguments: tuple[str | Path, ...], code: int | None) -> str:
        if code is not None:
            return run(command, *arguments, expected_code=code, cwd=self.folder, timeout=SECONDS)
        text = run(command, *arguments, expected_code=2, cwd=self.folder, timeout=SECONDS)
        errors = [line for line in text.splitlines() if "error: " in line]
        assert len(errors) == 1, text[-3000:]
        return text


def strict(path: Path) -> list[dict]:
    """The objects of a jsonl file."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in lines if line]


# --- a hostile world -----------------------------------------------------------------------------


@dataclass
class World:
    """Videos, rows and a data directory that carry ``text`` wherever they can."""

    folder: Path
    text: str
    name: str  # as that of a file

    def path(self, name: str) -> Path:
        """A path whose folder and name are hostile."""
        return self.folder / self.name / f"{self.name}{name}"


def make_world(folder: Path, text: str, terminal: Terminal) -> World:
    """Rows that are sound, rows that are not, a video that is none, and what vt-prepare makes."""
    world = World(folder, text, text.replace("/", "").replace("\0", ""))
    (folder / "videos").mkdir()
    world.path("").parent.mkdir()
    write_numbered(folder / "videos" / "video.mp4", 12)
    world.path("video.mp4").write_bytes((folder / "videos" / "video.mp4").read_bytes())
    world.path("broken.mp4").write_bytes(b"no video")
    texts = {"caption": [text, "it slides"], "label": f"l {text}".replace("\n", " ")}
    texts |= {"question": f"{text}?", "candidates": [text, "two"], "answer": 0}
    (folder / "videos" / "broken\u202e\x9b31m.mp4").write_bytes(b"no video")
    rows = []
    for split in ("train", "valid", "test"):
        for number in range(4):
            rows.append({"id": f"{number}{text}", "video": "video.mp4", "split": split, **texts})
        broken = {"id": f"broken{text}", "video": "broken\u202e\x9b31m.mp4", "split": split}
        rows.append({**broken, **texts})
    rows += [
        {"id": f"missing{text}", "video": world.name, **texts},
        {"id": f"split{text}", "video": "video.mp4", "split": text, **texts},
        {"id": f"times{text}", "video": "video.mp4", "start": text},
        {"id": f"0{text}", "video": "video.mp4", "split": "train", **texts},
    ]
    write_jsonl(world.path("rows.jsonl"), *rows)
    terminal(
        *["vt-prepare", "jsonl", "--annotations", world.path("rows.jsonl"), "--skip-probe"],
        *["--videos", folder / "videos", "--out", world.path("data"), "--train-vocabulary", "120"],
    )
    return world


def train(world: World, terminal: Terminal) -> Path:
    """A checkpoint of two updates, at a hostile path."""
    save = world.path("save")
    log = terminal(
        *["fairseq-train", world.path("data"), *PLUGIN, *TINY, "--save-dir", save],
        *["--max-update", "2", "--actions", "caption,classify", "--eval-bleu"],
        *["--max-bad-fraction", "0.9"],
    )
    assert "cannot read clip broken" in log
    return save / "checkpoint_last.pt"


def sample(world: World, terminal: Terminal) -> None:
    """A run of each command that reads texts of others when all goes well."""
    checkpoint, data = train(world, terminal), world.path("data")
    rejected = strict(data / "rejected.jsonl")
    assert {f"missing{world.text}", f"split{world.text}"} <= {row["id"] for row in rejected}
    results = world.path("results")
    terminal(
        *["fairseq-generate", data, *PLUGIN, "--path", checkpoint, "--gen-subset", "test"],
        *["--batch-size", "8", "--beam", "2", "--results-path", results],
    )
    true = [row.id for row in DataDirectory.open(data).manifest("test")]
    assert sorted(row["id"] for row in strict(results / "predictions.jsonl")) == sorted(true)
    assert all(world.text in name for name in true)
    out = terminal(
        *["vt-caption", world.path("video.mp4"), world.path("broken.mp4"), "--path", checkpoint],
        *["--format", "jsonl", "--device", "cpu"],
        code=1,
    )
    lines = [line for line in out.splitlines() if line.startswith("{")]
    shown = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert str(world.path("video.mp4")) in {row["video"] for row in shown}
    predictions, references = results / "predictions.jsonl", results / "references.jsonl"
    terminal(
        *["vt-evaluate", "captions", "--predictions", predictions, "--references", references],
        *["--coco", "off", "--out", results / "metrics.json"],
    )
    terminal("vt-report", world.folder, "--out", world.path("report.html"))


def everything(world: World, terminal: Terminal) -> None:
    """Every command with hostile texts of each kind, also where it refuses them."""
    sample(world, terminal)
    checkpoint, data = world.path("save") / "checkpoint_last.pt", world.path("data")
    text, own = world.text, ["--path", checkpoint, "--device", "cpu"]
    generate = ["fairseq-generate", data, *PLUGIN, "--path", checkpoint, "--batch-size", "8"]
    out = terminal(*generate, "--gen-subset", "test", "--beam", "1")
    assert "\nH-" in out
    terminal("fairseq-validate", data, *PLUGIN, "--path", checkpoint, "--batch-size", "8")
    videos = [world.path("video.mp4"), world.path("broken.mp4")]
    world.path("labels").write_text(f"{text}\nanother\n", encoding="utf-8")
    for options in (
        ["--format", "text"],
        ["--format", "srt", "--out", world.path("srt")],
        ["--every", "0.2", "--num-candidates", "2"],
        ["--classify", world.path("labels")],
        ["--ask", text, "--candidates", text, f"two {text}"],
        ["--ask", text],
        ["--rank", text],
        ["--rank", text, "--format", "jsonl"],
    ):
        terminal("vt-caption", *videos, *own, *options, code=1)
    terminal("vt-caption", world.path("video.mp4"), *own, "--format", "vtt")
    library = world.path("library")
    terminal("vt-index", library, *videos, *own, code=1)
    for options in (
        [text],
        [text, f"two {text}", "--format", "m3u"],
        [text, "--format", "html"],
        ["--like", videos[0], "--format", "jsonl"],
    ):
        terminal("vt-search", library, *options, *own)
    terminal("vt-ask", library, text, "--candidates", text, "two", *own)
    terminal("vt-ask", library, text, "--format", "jsonl", *own)
    serve(world, terminal, library, *own)
    for kind in ("vqa", "classify", "retrieval"):
        out = world.path(f"scores-{kind}")
        terminal("vt-score", kind, data, *own, "--out", out, "--num-workers", "1")
        assert all(text in row["id"] for row in strict(out / "scores.jsonl"))
    terminal("vt-report", world.folder, "--out", world.path("report.html"), "--data", data)
    terminal("vt-init", "--from-checkpoint", checkpoint, "--export", world.path("export"))
    terminal("vt-prepare", "miniworld", "--size", "tiny", "--out", world.path("w"),
             "--train-vocabulary", "120")  # fmt: skip
    refusals(world, terminal)


def serve(world: World, terminal: Terminal, library: Path, *own: str | Path) -> None:
    """vt-serve, asked with hostile texts until it is interrupted."""
    arguments = (library, "--port", "0", *own)
    process = subprocess.Popen(
        command_line("vt-serve", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment(),
        cwd=terminal.folder,
    )
    try:
        first = process.stdout.readline()
        address = first[first.index("http://") :].split()[0]
        (found,) = asked(f"{address}search", {"query": world.text})["results"]
        texts = [world.text, "two"]
        question = {"segment": found["id"], "question": world.text, "candidates": texts}
        answers = asked(f"{address}ask", question)["answers"]
        assert len(answers) == 2 and not any(map(acts, "".join(a["text"] for a in answers)))
        with pytest.raises(urllib.error.HTTPError, match="400"):
            asked(f"{address}index", {"folder": f"{world.text}none"})
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        terminal.looked_at("vt-serve", first + rest, arguments)
    finally:
        process.kill()


def asked(address: str, question: dict) -> dict:
    """A server's answer to a question as its page asks it."""
    request = urllib.request.Request(
        address, json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


def refusals(world: World, terminal: Terminal) -> None:
    """What cannot be used is named: files that are missing, damaged, of another kind."""
    checkpoint, text = world.path("save") / "checkpoint_last.pt", world.text
    data, missing, broken = world.path("data"), world.path("missing"), world.path("broken.mp4")
    write_jsonl(world.path("keys.jsonl"), {"id": "a", "video": "video.mp4", text: text})
    state = torch.load(checkpoint, weights_only=True)
    for name, changed in hostile_states(state, text).items():
        torch.save(changed, world.path(f"{name}.pt"))
    poor = [world.path(f"{name}.pt") for name in hostile_states(state, text) if name != "option"]
    unknown = world.path("option.pt")  # which is left out
    terminal("vt-caption", world.path("video.mp4"), "--path", unknown, "--device", "cpu")
    for path in (missing, broken, *poor):
        terminal("vt-caption", world.path("video.mp4"), "--path", path, code=None)
    for path in (missing, broken):
        terminal("vt-search", path, text, "--path", checkpoint, "--device", "cpu", code=None)
        terminal("vt-serve", path, "--path", checkpoint, "--device", "cpu", code=None)
    for path in (broken, poor[0]):
        terminal("vt-score", "vqa", data, "--path", path, "--out", world.path("x"), code=None)
        terminal(*["fairseq-generate", data, *PLUGIN, "--path", path], code=None)
    terminal("fairseq-interactive", data, *PLUGIN, "--path", checkpoint, code=None)
    terminal("fairseq-train", missing, *PLUGIN, *TINY, "--save-dir", world.path("s2"), code=None)
    terminal("fairseq-train", data, *PLUGIN, *TINY, "--save-dir", broken, code=None)
    train_from = ["fairseq-train", data, *PLUGIN, *TINY, "--save-dir", world.path("s3")]
    terminal(*train_from, "--restore-file", missing, code=None)
    terminal(*train_from, "--actions", text, code=None)
    for rows in (missing, broken, world.path("keys.jsonl")):
        terminal("vt-prepare", "jsonl", "--annotations", rows, "--videos", world.folder / "videos",
                 "--out", world.path("d2"), "--train-vocabulary", "99", code=None)  # fmt: skip
    for corpus in ("youcook2", "msrvtt", "tvqa", "tvc", "epic-kitchens", "howto100m"):
        terminal("vt-prepare", corpus, "--annotations", world.folder / world.name, "--videos",
                 world.folder / "videos", "--out", world.path("d3"), "--train-vocabulary", "99",
                 code=None)  # fmt: skip
    predictions = write_jsonl(world.path("p.jsonl"), {"id": text, "prediction": text})
    references = write_jsonl(world.path("r.jsonl"), {"id": f"{text}!", "references": [text]})
    files = ["--predictions", predictions, "--references", references]
    terminal("vt-evaluate", "captions", *files, code=None)
    terminal("vt-evaluate", "vqa", *files, code=None)
    world.path("p.jsonl").write_bytes(b"\x1b[31m\n")
    terminal("vt-evaluate", "captions", *files, code=None)
    terminal("vt-submit", "tvc", "--annotations", missing, "--out", world.path("z.zip"),
             "--predictions", f"valid={predictions}", f"test={predictions}", code=None)  # fmt: skip
    terminal("vt-submit", "tvc", "--annotations", missing, "--out", world.path("z.zip"),
             "--predictions", text, code=None)  # fmt: skip
    terminal("vt-report", missing, code=None)
    terminal("vt-memory", "--arch", text, code=None)
    terminal("vt-memory", text, code=None)
    t5 = world.path("t5")
    weights.write_t5(t5, weights.vocabulary())
    (t5 / "config.json").write_text(json.dumps({"model_type": text, "feed_forward_proj": text}))
    new = ["--video", "random", "--arch", "video_translate_tiny", "--out", world.path("i.pt")]
    for source in (missing, broken, t5):
        terminal("vt-init", "--t5", source, *new, code=None)
    terminal("vt-init", "--from-checkpoint", broken, "--export", world.path("e2"), code=None)


def hostile_states(state: dict, text: str) -> dict[str, dict]:
    """Checkpoints whose names, options and weights are hostile."""
    model = state["model"]
    first = next(name for name, tensor in model.items() if tensor.is_floating_point())
    cfg = state["cfg"]
    return {
        "tensors": state | {"model": model | {text: torch.zeros(1)}},
        "nan": state | {"model": model | {first: torch.full_like(model[first], torch.nan)}},
        "arch": state | {"cfg": cfg | {"model": dict(cfg["model"]) | {"_name": text}}},
        "option": state | {"cfg": cfg | {"task": dict(cfg["task"]) | {text: text}}},
        "vocabulary": state
        | {"task_state": state["task_state"] | {"vocabulary": torch.zeros(9, dtype=torch.uint8)}},
    }


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_a_command_prints_acts_on_a_terminal_or_forges_a_line(
    kind, tmp_path, campaign, record
):
    if not campaign and kind != SAMPLE:
        pytest.skip("a campaign has all of them")
    terminal = Terminal(tmp_path)
    world = make_world(tmp_path, HOSTILE[kind], terminal)
    (everything if campaign else sample)(world, terminal)
    assert not campaign or set(terminal.commands) == set(MODULES)
    found = {"commands": sum(terminal.commands.values()), "raw characters": 0}
    record(kind, found | {"forged lines": 0, "characters looked at": terminal.characters})


def test_bytes_that_are_no_text_are_shown_by_their_numbers(tmp_path):
    name = os.fsdecode(b"\xff\x1b[31m.mp4")
    terminal = Terminal(tmp_path)
    assert "\\udcff\\x1b[31m.mp4" in terminal("vt-report", tmp_path / name, code=None)
