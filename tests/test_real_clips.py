"""The whole way on the 48 captioned YouTube clips of the test material (slow)."""

import json
from pathlib import Path

import pytest

from tests.commands import PLUGIN, run

pytestmark = pytest.mark.timeout(1800)
UPDATES = 1000
USES = ("caption", "use2", "use3", "use4", "use5")
FIRST_SECONDS = {"start": 0.0, "end": 2.0}
TRAIN = [
    *["--arch", "video_translate_tiny", "--criterion", "video_translate", "--text-dropout", "1"],
    *["--num-frames", "8", "--frame-size", "48"],
    # Crops of the size that the test's center crop has.
    *["--no-flip", "--crop-scales", "0.875"],
    # Decoding costs most: each decoded batch is used five times.
    *["--define-action", ";".join(f"{use}=caption:caption :" for use in USES[1:])],
    *["--actions", ",".join(USES), "--reuse-batch"],
    *["--max-target-tokens", ",".join(f"{use}=40" for use in USES)],
    *["--optimizer", "adam", "--lr", "1e-3", "--lr-scheduler", "polynomial_decay"],
    *["--total-num-update", UPDATES, "--warmup-updates", "50", "--max-update", UPDATES],
    *["--batch-size", "16", "--num-workers", "2", "--clip-norm", "1", "--disable-validation"],
    *["--no-epoch-checkpoints", "--log-format", "simple", "--save-interval", "1000"],
]


@pytest.fixture(scope="module")
def trained(test_data, tmp_path_factory) -> Path:
    """A folder with DATA and a model that was trained on the clips until it knows them."""
    out = tmp_path_factory.mktemp("panda")
    clips = test_data / "video" / "clips" / "panda70m"
    rows = [
        {"id": clip["file"], "video": clip["file"], "caption": clip["caption"], **FIRST_SECONDS}
        for clip in json.loads((clips / "captions.json").read_text())
    ]
    assert len(rows) == 48
    (out / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(
        "vt-prepare",
        *["jsonl", "--annotations", out / "clips.jsonl", "--videos", clips],
        *["--out", out / "data", "--vocabulary", test_data / "t5" / "spiece.model"],
    )
    run("fairseq-train", out / "data", *PLUGIN, *TRAIN, "--save-dir", out, timeout=1800)
    return out


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("decoding", "least"),
    [
        (["--beam", "5"], 90),
        (["--beam", "1"], 90),
        (["--sampling", "--sampling-topk", "5", "--beam", "1", "--seed", "1"], 50),
    ],
    ids=["beam5", "greedy", "topk5"],
)
def test_a_model_trained_on_real_clips_reproduces_their_captions(
    trained, tmp_path, decoding, least
):
    run(
        "fairseq-generate",
        *[trained / "data", *PLUGIN, "--path", trained / "checkpoint_last.pt"],
        *["--gen-subset", "train", "--action", "caption", "--max-len-b", "50"],
        *["--batch-size", "16", "--results-path", tmp_path, *decoding],
    )
    files = [f"--{kind}={tmp_path}/{kind}.jsonl" for kind in ("predictions", "references")]
    run("vt-evaluate", "captions", *files, "--coco", "off", "--out", tmp_path / "metrics.json")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    print(decoding, metrics)
    assert metrics["n"] == 48 and metrics["missing"] == 0
    assert metrics["exact_match"] >= least


@pytest.mark.slow
@pytest.mark.data
def test_a_model_trained_on_real_clips_finds_each_by_its_caption(trained, tmp_path):
    run(
        "vt-score",
        *["retrieval", trained / "data", "--path", trained / "checkpoint_last.pt"],
        *["--split", "train", "--out", tmp_path, "--cpu"],
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    print(metrics)
    assert metrics["n"] == 48 and metrics["r1"] >= 90
