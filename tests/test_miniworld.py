"""MiniWorld is reproducible, fair (nothing is given away but by the motion) and real video."""

import collections
import json
from pathlib import Path

import av
import numpy as np
import pytest

from vt_fairseq.errors import UserError
from vt_fairseq.miniworld.rendering import ACTIONS, COLORS, SHAPES, SIDE, X, poses
from vt_fairseq.miniworld.texts import ALL, HELD_OUT, SEEN, label
from vt_fairseq.miniworld.world import FPS, SIZES, SPLITS, annotations, generate, plan_videos

TINY = SIZES["tiny"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("miniworld")
    generate(out, TINY, seed=3)
    return out


@pytest.fixture(scope="module")
def tiny_rows(world):
    return [json.loads(line) for line in (world / "annotations.jsonl").open()]


@pytest.fixture(scope="module")
def default_rows():
    return annotations(plan_videos(SIZES["default"], seed=0), seed=0)


def of(rows, split):
    return [row for row in rows if row["split"] == split]


def decode(path):
    """All frames: uint8 (F, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- reproducible ---------------------------------------------------------------------------------


def test_the_seed_fixes_every_byte_for_any_number_of_workers(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    again = Path("concat:again")  # FFmpeg would read a protocol into it
    generate(again, TINY, seed=3, workers=2)
    generate(tmp_path / "other", TINY, seed=4)
    assert contents(again) == contents(world)
    assert contents(tmp_path / "other") != contents(world)


def test_an_interrupted_run_goes_on_and_ends_as_if_never_stopped(world, tmp_path, monkeypatch):
    opened, real = [], av.open

    def interrupt(*args, **options):
        opened.append(args)
        if len(opened) == 5:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(av, "open", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, TINY, seed=3)
    assert not (tmp_path / "annotations.jsonl").exists()
    assert generate(tmp_path, TINY, seed=3) == 5
    assert contents(tmp_path) == contents(world)
    assert generate(tmp_path, TINY, seed=3) == 0


def test_other_settings_or_foreign_files_are_refused_with_a_cure(world, tmp_path):
    with pytest.raises(UserError, match="choose another folder"):
        generate(world, TINY, seed=4)
    (tmp_path / "annotations.jsonl").write_text("mine")
    with pytest.raises(UserError, match="choose another folder"):
        generate(tmp_path, TINY, seed=0)
    assert (tmp_path / "annotations.jsonl").read_text() == "mine"


# --- splits ---------------------------------------------------------------------------------------


def test_the_default_splits_have_the_promised_sizes(default_rows):
    counts = collections.Counter(row["split"] for row in default_rows)
    assert counts == {
        "train": 3000,
        "pretrain": 3000,
        "valid": 200,
        "test": 300,
        "novel": 100,
        "retrieval": 120,
    }
    assert len({row["id"] for row in default_rows}) == len(default_rows)


def test_no_two_splits_share_a_video(default_rows):
    videos = [{row["video"] for row in of(default_rows, split)} for split in SPLITS]
    assert sum(map(len, videos)) == len(set.union(*videos))
    pretrain = {row["video"] for row in of(default_rows, "pretrain")}
    assert pretrain == videos[0]


def test_combinations_held_out_occur_in_no_other_split(default_rows):
    novel = {row["label"] for row in of(default_rows, "novel")}
    assert len(novel) == len(HELD_OUT) == 12
    others = [row for row in default_rows if row["split"] != "novel"]
    assert novel.isdisjoint(row["label"] for row in others)
    assert {row["label"] for row in of(default_rows, "train")} == {label(c) for c in SEEN}
    spoken = [set(row["caption"][0].split()) for row in of(default_rows, "pretrain")]
    for combination in HELD_OUT:  # color, shape and what it does
        assert not any(set(label(combination).split()) <= words for words in spoken)


def test_every_attribute_and_pair_of_attributes_is_seen_in_training():
    assert len(SEEN) + len(HELD_OUT) == len(ALL) == 144
    counts = [collections.Counter(values) for values in zip(*HELD_OUT, strict=True)]
    assert counts == [
        dict.fromkeys(COLORS, 2),
        dict.fromkeys(SHAPES, 3),
        dict.fromkeys(ACTIONS, 2),
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert len({(c[first], c[second]) for c in HELD_OUT}) == len(HELD_OUT)


def test_the_captions_of_the_gallery_are_pairwise_distinct(default_rows):
    gallery = of(default_rows, "retrieval")
    for reference in range(3):
        assert len({row["caption"][reference] for row in gallery}) == len(gallery) >= 100


# --- rows -----------------------------------------------------------------------------------------


def test_every_row_is_valid(tiny_rows, default_rows):
    for row in tiny_rows + default_rows:
        assert 0 <= row["start"] < row["end"]
        assert row["noun"] in row["label"]
        assert row["group"] + ".mp4" == row["video"]
        if row["split"] == "pretrain":
            assert len(row["caption"]) == 1 and row["caption"][0]
            continue
        assert len(row["caption"]) == 3
        assert len(set(row["candidates"])) == 5
        assert 0 <= row["answer"] < 5
        right = set(row["candidates"][row["answer"]].split())
        assert right <= set((row["caption"][0] + " " + row["noun"]).split())


def test_the_words_are_few_and_lower_case(default_rows):
    keys = ("label", "verb", "noun", "question", "context")
    texts = [row[key] for row in default_rows for key in keys if key in row]
    texts += [t for row in default_rows for t in row["caption"] + row.get("candidates", [])]
    words = {word for text in texts for word in text.split()}
    assert len(words) < 150
    assert all(word == word.lower() for word in words)


def test_answers_are_uniform_over_the_five_places(default_rows):
    for split in SPLITS:
        places = collections.Counter(row["answer"] for row in of(default_rows, split))
        assert max(places.values()) - min(places.values()) <= 1


def test_the_answer_cannot_be_guessed_from_question_and_candidates(default_rows):
    def pairs(row):
        return [(row["question"], candidate) for candidate in row["candidates"]]

    shown, right = collections.Counter(), collections.Counter()
    for row in of(default_rows, "train"):
        shown.update(pairs(row))
        right[pairs(row)[row["answer"]]] += 1
    hits = [
        int(np.argmax([right[p] / max(shown[p], 1) for p in pairs(row)])) == row["answer"]
        for split in ("valid", "test", "retrieval")
        for row in of(default_rows, split)
    ]
    assert np.mean(hits) < 0.27  # chance is 0.20, its standard error here 0.016


# --- pictures -------------------------------------------------------------------------------------


def test_videos_are_h264_of_the_stated_length_and_decode(world, tiny_rows):
    paths = sorted((world / "videos").iterdir())
    assert len(paths) == sum(TINY.values()) == 9
    last = {row["video"]: row["end"] for row in tiny_rows if row["split"] != "pretrain"}
    for path in paths:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert stream.average_rate == FPS
            assert container.duration / av.time_base == pytest.approx(last[path.name], abs=0.01)
        assert decode(path).shape == (round(last[path.name] * FPS), SIDE, SIDE, 3)
    for row in of(tiny_rows, "pretrain"):
        assert row["end"] <= last[row["video"]]


def test_decoded_clips_show_their_color_and_motion_within_start_and_end(world, tiny_rows):
    rows = [row for row in tiny_rows if row["split"] != "pretrain"]
    video = {row["video"]: decode(world / "videos" / row["video"]) for row in rows}
    moves = {"rise": (0, -1), "fall": (0, 1), "grow": (2, 1), "shrink": (2, -1)}
    for row in rows:
        first, last = round(row["start"] * FPS), round(row["end"] * FPS)
        frames = video[row["video"]][first - 1 : last].astype(int)
        mask = np.ptp(frames, axis=-1) > 70  # all but the shape is gray
        assert not mask[0].any(), "the frame before the start shows the background alone"
        seen = np.median(frames[mask], axis=0)
        distance = {name: abs(seen - rgb).sum() for name, rgb in COLORS.items()}
        assert min(distance, key=distance.get) == row["noun"].split()[0]
        if row["verb"] in moves:
            where, sign = moves[row["verb"]]
            track = [(*np.argwhere(m).mean(0), np.sqrt(m.sum())) for m in mask[1:]]
            steps = np.diff(np.array(track)[:, where])
            assert np.median(steps) * sign > 0.1, row  # pixels per frame


def linear_accuracy(features, classes):
    """Least squares one-against-all with squares and products, fitted on one half of the rows."""
    n, width = features.shape
    products = [features[:, i] * features[:, j] for i in range(width) for j in range(i, width)]
    design = np.column_stack([np.ones(n), features, *products])
    half = n // 2
    weights, *_ = np.linalg.lstsq(design[:half], np.eye(len(ACTIONS))[classes[:half]], rcond=None)
    return np.mean((design[half:] @ weights).argmax(1) == classes[half:])


def test_one_frame_does_not_give_the_action_away_but_the_motion_does():
    rng = np.random.default_rng(0)
    classes = rng.integers(len(ACTIONS), size=4000)
    tracks = np.stack([poses(ACTIONS[c], 8, rng) for c in classes])  # (clips, F, 3)
    for frame in (0, 4, 7):
        assert linear_accuracy(tracks[:, frame], classes) < 0.21  # chance is 0.167
    step = np.median(np.diff(tracks, axis=1), axis=1)
    step[:, X] = abs(step[:, X])  # slide goes either way
    assert linear_accuracy(step / step.std(0), classes) > 0.95


def test_no_action_tells_left_from_right_because_training_mirrors_clips():
    rng = np.random.default_rng(0)
    for action in ACTIONS:
        tracks = np.stack([poses(action, 8, rng) for _ in range(2000)])
        step = np.median(np.diff(tracks, axis=1), axis=1)
        assert abs(np.sign(step[:, X]).mean()) < 0.1
