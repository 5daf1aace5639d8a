"""Changes of training clips: one draw per clip, none at test, and what each of them does."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vt_fairseq.data.clips import ClipCache, ClipLoader
from vt_fairseq.data.manifest import ClipRow, DataDirectory
from vt_fairseq.errors import UserError
from vt_fairseq.scoring import job
from vt_fairseq.video.augmentation import Augmentation, jittered, mix_still
from vt_fairseq.video.frame_sampling import FrameSampling
from vt_fairseq.video.transforms import ClipTransform

EVERYTHING = Augmentation(rotation=10, stretch=0.3, shift=0.2, color=0.5, gray=0.3)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def clip() -> np.ndarray:
    return generator(1).integers(0, 256, (4, 40, 60, 3), dtype=np.uint8)


def spot(row: int, column: int, height: int = 64, width: int = 96) -> np.ndarray:
    """One black frame with a white square of 9 pixels around a place."""
    frames = np.zeros((1, height, width, 3), np.uint8)
    frames[:, row - 4 : row + 5, column - 4 : column + 5] = 255
    return frames


def center(frames: np.ndarray) -> np.ndarray:
    """Row and column of what is bright."""
    weight = frames[0].sum(axis=-1).astype(float)
    places = np.indices(weight.shape)
    return (places * weight).sum(axis=(1, 2)) / weight.sum()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (32, 32), (1, 1), (7, 200)])
def test_every_input_size_gives_contiguous_uint8_squares(whole, shape):
    frames = generator().integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    for train in (True, False):
        transform = ClipTransform(32, train, whole=whole, augmentation=EVERYTHING)
        result = transform(frames, generator())
        assert result.shape == (3, 32, 32, 3) and result.dtype == np.uint8
        assert result.flags.c_contiguous


def test_the_same_seed_gives_the_same_clip_and_the_input_is_left_alone(clip):
    transform, before = ClipTransform(32, True, whole=True, augmentation=EVERYTHING), clip.copy()
    first, again, other = (transform(clip, generator(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(clip, before)


def test_all_frames_of_a_clip_are_moved_alike(clip):
    for seed in range(5):
        whole = EVERYTHING.moved(clip, generator(seed))
        single = [EVERYTHING.moved(clip[i : i + 1], generator(seed)) for i in range(len(clip))]
        np.testing.assert_array_equal(whole, np.concatenate(single))


def test_equal_frames_of_a_clip_stay_equal_in_their_colors(clip):
    still = np.repeat(clip[:1], 4, axis=0)
    for seed in range(5):
        result = EVERYTHING.recolored(still, generator(seed))
        assert (result == result[:1]).all()


def test_without_options_frames_are_those_of_before_and_nothing_is_drawn(clip):
    rng, untouched = generator(), generator()
    assert Augmentation().moved(clip, rng) is clip and Augmentation().recolored(clip, rng) is clip
    assert rng.random() == untouched.random()


def test_the_test_sees_no_augmentation(clip):
    for whole in (False, True):
        plain = ClipTransform(32, False, whole=whole)
        augmented = replace(plain, augmentation=EVERYTHING)
        np.testing.assert_array_equal(plain(clip, None), augmented(clip, None))


def test_the_whole_frame_is_seen_where_the_center_crop_cuts_it_off():
    frames = spot(32, 6)
    assert ClipTransform(48, train=False)(frames, None).max() == 0
    whole = ClipTransform(48, train=False, whole=True)(frames, None)
    assert np.abs(center(whole) - (24, 3)).max() < 1
    train = ClipTransform(64, True, 0.0, scales=(1.0,), whole=True)(frames, generator())
    assert np.abs(center(train) - (32, 4)).max() < 1


def test_rotation_turns_around_the_middle_and_keeps_lengths():
    found = {tuple(center(Augmentation(rotation=30).moved(spot(32, 68), generator(s))).round())
             for s in range(200)}  # fmt: skip
    rows, columns = np.array(sorted(found)).T
    # 20 pixels to the right of the middle, turned by up to 30 degrees.
    assert np.abs(np.hypot(rows - 31.5, columns - 47.5) - 20.5).max() < 1.5
    assert rows.min() < 24 and rows.max() > 39 and columns.min() > 63


def test_a_shift_moves_by_up_to_its_share_either_way():
    found = [center(Augmentation(shift=0.25).moved(spot(32, 48), generator(s))) for s in range(200)]
    moved = np.abs(np.array(found) - (32, 48)).max(axis=0)
    assert (moved <= (16.5, 24.5)).all() and (moved > (14, 21)).all()


def test_a_stretch_changes_each_side_for_itself():
    place = spot(32 + 16, 48 + 16)
    found = [center(Augmentation(stretch=0.5).moved(place, generator(s))) for s in range(200)]
    rows, columns = (np.array(found) - (31.5, 47.5)).T / 16.5
    for sides in (rows, columns):
        assert 0.6 < sides.min() < 0.75 and 1.4 < sides.max() < 1.55
        assert 80 < (sides > 1).sum() < 120
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.25


def test_gray_clips_have_one_color_in_their_share():
    clip = generator(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    gray = [np.ptp(Augmentation(gray=0.3).recolored(clip, generator(s)), axis=-1).max() == 0
            for s in range(400)]  # fmt: skip
    assert 90 < sum(gray) < 150


def test_colors_become_stronger_and_weaker_about_their_mean():
    clip = np.full((1, 8, 8, 3), 100, np.uint8)
    means = [Augmentation(color=0.5).recolored(clip, generator(s)).mean() for s in range(300)]
    assert 40 < min(means) < 75 and 135 < max(means) < 230 and 90 < np.median(means) < 111


@pytest.mark.parametrize("jitter", [0.0, 0.1, 0.4])
def test_jittered_times_ascend_in_the_clip_and_show_all_of_it_on_average(jitter):
    drawn = np.array([jittered(16, 64, jitter, generator(seed)) for seed in range(400)])
    assert drawn.dtype == np.int64 and drawn.min() >= 0 and drawn.max() <= 63
    assert (np.diff(drawn, axis=1) >= 0).all()
    starts, ends = drawn[:, 0], 63 - drawn[:, -1]
    assert starts.max() <= jitter * 64 + 8 and ends.max() <= jitter * 64 + 8
    assert abs(starts.mean() - ends.mean()) < 3
    # A third of the clips begins, and a third ends, outside, where a frame stands still.
    assert (starts <= 1).mean() > 0.2 and (ends <= 1).mean() > 0.2
    assert drawn[:, 8].std() > 1 + 15 * jitter  # without: uniform in a part of four frames


def test_a_still_frame_shines_through_all_frames_alike(clip):
    still = np.full_like(clip, 200)
    for seed in range(5):
        result = mix_still(clip, still, 0.5, generator(seed))
        weight = (result.astype(float) - clip)[clip < 150] / (200.0 - clip[clip < 150])
        assert np.ptp(weight) < 0.03 and 0 <= weight.mean() <= 0.51
    np.testing.assert_array_equal(mix_still(clip, still, 0.0, generator()), clip)


NONSENSE = [{"shift": 1.0}, {"gray": 1.5}, {"stretch": -1}, {"color": float("nan")}]


@pytest.mark.parametrize("options", NONSENSE)
def test_impossible_amounts_are_refused(options):
    with pytest.raises(UserError):
        Augmentation(**options)


# --- clips of files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(data_directory) -> list[ClipRow]:
    return list(DataDirectory.open(data_directory).manifest("train"))[:6]


def loader(data_directory, **options) -> ClipLoader:
    sampling = FrameSampling(num_frames=4)
    transform = ClipTransform(24, True, 0.0, scales=(1.0,))
    root = DataDirectory.open(data_directory).video_root
    return ClipLoader(root, sampling, transform, "random", **options)


def test_a_cache_changes_no_jittered_clip_and_the_draws_go_on(data_directory, rows):
    cache = ClipCache(1e9)
    plain = loader(data_directory, time_jitter=0.3)
    cached = replace(plain, cache=cache)
    seen = set()
    for seed in range(6):
        shown = [load(rows[0], generator(seed)) for load in (plain, cached)]
        np.testing.assert_array_equal(*shown)
        seen.add(shown[0].tobytes())
    assert len(seen) > 2  # other times of the same decoded frames
    # What the validation reads of the same file is its own, of F frames.
    test = replace(cached, time_jitter=0.0, transform=ClipTransform(24, False), window="center")
    fresh = replace(test, cache=None)
    np.testing.assert_array_equal(test(rows[0], None), fresh(rows[0], None))


def test_a_jitter_of_half_a_clip_is_refused(data_directory):
    with pytest.raises(UserError, match="jittered"):
        loader(data_directory, time_jitter=0.5)


def test_scoring_sees_whole_frames_where_training_did(data_directory, rows):
    plain = loader(data_directory)
    for whole in (False, True):
        transform = ClipTransform(24, False, whole=whole, augmentation=EVERYTHING)
        trained = replace(plain, transform=transform, window="center")
        data = SimpleNamespace(video_root=plain.video_root)
        task = SimpleNamespace(data=data, clip_loader=lambda root, train, of=trained: of)
        scored = job._clip_loader(SimpleNamespace(task=task))
        np.testing.assert_array_equal(scored(rows[0], None), trained(rows[0], None))
