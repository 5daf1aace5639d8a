"""README's "With your own videos" on 48 made clips: both ways, the commands as they are written."""

import json
import os
import re
import resource
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import media, weights
from tests.commands import ROOT, environment
from tests.corpora import write_jsonl
from tests.markdown import blocks
from vt_fairseq.miniworld.rendering import COLORS, clip_frames
from vt_fairseq.miniworld.texts import ALL, captions

CLIPS = 48
LONG = "the shape that is seen here from the first to the last moment of this little clip"
RESULTS = ("results/captions/metrics.json", "results/vqa/metrics.json", "report.html")


def parts() -> dict[str, str]:
    """The shell blocks of README's section, by their first command's purpose."""
    found = [b.text for b in blocks(Path("README.md")) if "clips.jsonl" in b.text]
    laptop, gpu = found
    (after,) = [b.text for b in blocks(Path("README.md")) if "vt-report results" in b.text]
    return {"laptop": laptop, "gpu": gpu, "after": after}


@pytest.fixture
def folder(tmp_path) -> Path:
    """``clips.jsonl`` and ``videos/``: 36 clips to train on, 6 to validate and 6 to test."""
    (tmp_path / "videos").mkdir()
    rng, rows = np.random.default_rng(26), []
    for number in range(CLIPS):
        combination = ALL[number * 5 % len(ALL)]
        frames = clip_frames(*combination, frames=18, lead=2, rng=rng)
        media.write_video(tmp_path / "videos" / f"{number}.mp4", list(frames), rate=10)
        rows.append(
            {
                "id": str(number),
                "video": f"{number}.mp4",
                "caption": f"{captions(combination)[0]} , {LONG}"
                if number == 0
                else captions(combination),
                "question": "what color is it ?",
                "candidates": list(COLORS),
                "answer": list(COLORS).index(combination.color),
                "split": "train" if number < 36 else "valid" if number < 42 else "test",
            }
        )
    write_jsonl(tmp_path / "clips.jsonl", *rows)
    (tmp_path / "user_dir").symlink_to(ROOT / "user_dir")
    return tmp_path


def shell(commands: str, folder: Path, real_commands: Path) -> str:
    """What a shell prints that runs ``commands`` in ``folder``."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={**environment(), "PATH": f"{real_commands}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def check(log: str, folder: Path) -> None:
    """Nothing is cut, two checkpoints are kept, numbers and clips are on the page."""
    assert "done training" in log and "are cut" not in log
    kept = {path.name for path in (folder / "checkpoints").glob("*.pt")}
    assert kept == {"checkpoint_best.pt", "checkpoint_last.pt"}
    metrics = json.loads((folder / RESULTS[0]).read_text())
    page = (folder / RESULTS[2]).read_text()
    assert f"<b>{metrics['bleu4']:.1f}</b>" in page and "no numbers" not in page
    assert (folder / RESULTS[1]).exists() and "<svg" in page and "data:image/jpeg" in page


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_laptops_way_runs_as_written_and_learns(folder, real_commands):
    began = time.monotonic()
    log = shell(parts()["laptop"], folder, real_commands)
    seconds = time.monotonic() - began
    prepared = re.search(r"captions of train: median \d+ tokens.*longest (\d+); (\S+)%", log)
    assert 20 < int(prepared[1]) <= 80, "the long caption is cut at the default, not here"
    losses = [float(x) for x in re.findall(r"valid on 'valid' subset \| loss ([\d.]+)", log)]
    assert len(losses) == 3 and losses[-1] < losses[0]
    log += shell(parts()["after"], folder, real_commands)
    check(log, folder)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    expected = re.search(r"expected memory: .*", log)[0]
    print(
        "\n".join(
            line for line in log.splitlines() if "training.start" in line or " valid on " in line
        )
    )
    print(f"{seconds:.0f} s to prepare and train, at most {peak:.2f} GiB in a process; {expected}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.data
def test_the_gpus_way_runs_as_written_but_for_its_sizes(folder, real_commands, test_data):
    """T5-small and R(2+1)D-34 with random weights in the files that README names; on the CPU."""
    spiece = test_data / "t5" / "spiece.model"
    t5_small = {"vocab_size": 32_128, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8}
    weights.write_t5(
        folder / "t5-small",
        spiece.read_bytes(),
        **t5_small,
        num_layers=6,
        num_decoder_layers=6,
    )
    (video,) = set(re.findall(r"r2plus1d_34\S+\.pth", parts()["gpu"]))
    network = weights.network("34", num_classes=359)
    torch.save(network.state_dict(), folder / video)
    small = " --num-frames 8 --frame-size 32 --batch-size 4 --max-update 5 --num-workers 0 --cpu"
    commands = parts()["gpu"].replace("\\\n", " ")
    assert " --fp16" in commands  # which needs a GPU
    log = shell(
        re.sub(r"(fairseq-train .*) 2>&1", rf"\1{small} 2>&1", commands).replace(" --fp16", ""),
        folder,
        real_commands,
    )
    assert "random weights" not in log
    check(log + shell(parts()["after"], folder, real_commands), folder)
