"""Models with weights that are no numbers, or whose scores become none: one line, no output."""

import math
from pathlib import Path

import pytest
import torch

from tests.commands import PLUGIN, run
from tests.media import write_numbered
from vt_fairseq import VideoTranslate
from vt_fairseq.cli import caption, init, score
from vt_fairseq.errors import UserError


@pytest.fixture
def video(tmp_path) -> Path:
    return write_numbered(tmp_path / "a.mp4", 12)


def changed(trained: Path, path: Path, value: float) -> str:
    """A checkpoint at ``path`` with one weight of ``value``, whose name is returned."""
    state = torch.load(trained, weights_only=True)
    name = next(n for n in state["model"] if n.endswith("fc1.weight") or n.endswith("wi.weight"))
    state["model"][name].view(-1)[7] = value
    torch.save(state, path)
    return name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_no_number_is_refused_by_its_name_in_every_command(
    trained, data_directory, video, tmp_path, call_main, value
):
    path = tmp_path / "bad.pt"
    name = changed(trained, path, value)
    with pytest.raises(UserError, match=f"{name} has values that are not finite"):
        VideoTranslate.from_pretrained(path, device="cpu")
    for main, *arguments in (
        (caption.main, video, "--path", path, "--device", "cpu", "--format", "jsonl"),
        (score.main, "vqa", data_directory, "--path", path, "--out", tmp_path / "s", "--cpu"),
        (init.main, "--from-checkpoint", path, "--export", tmp_path / "e"),
    ):
        code, out, err = call_main(main, *arguments)
        assert code == 2 and not out and f"{name} has values that are not finite" in err
        assert len([line for line in err.splitlines() if "error: " in line]) == 1
    assert not (tmp_path / "e").exists()


def test_fairseq_generate_refuses_a_weight_that_is_no_number(trained, data_directory, tmp_path):
    name = changed(trained, tmp_path / "bad.pt", math.nan)
    out = run(
        *["fairseq-generate", data_directory, *PLUGIN, "--path", tmp_path / "bad.pt"],
        *["--results-path", tmp_path / "results"],
        expected_code=2,
    )
    assert f"{name} has values that are not finite" in out and "Traceback" not in out


def test_scores_that_are_no_numbers_end_in_one_line_and_no_json(
    trained, video, tmp_path, call_main
):
    changed(trained, tmp_path / "large.pt", 3e38)  # a number, but not its products
    state = torch.load(tmp_path / "large.pt", weights_only=True)
    for name, tensor in state["model"].items():
        if "layer_norm" in name:
            tensor.fill_(1e30)
    torch.save(state, tmp_path / "large.pt")
    of_clip, of_token = (
        f"a score of clip {video} is not a finite",
        "scores of the next token are not",
    )
    for said, task in (
        (of_token, []),
        (of_clip, ["--rank", "it"]),
        (of_clip, ["--ask", "what", "--candidates", "x", "y"]),
    ):
        code, out, err = call_main(
            *[caption.main, video, "--path", tmp_path / "large.pt", "--device", "cpu", *task],
            *["--format", "jsonl"],
        )
        assert code == 2 and not out
        assert said in err and "Traceback" not in err
