"""Crops and flips: shapes, repeatability, and one choice per clip."""

import numpy as np
import pytest

from vt_fairseq.errors import UserError
from vt_fairseq.video.transforms import ClipTransform, center_crop, multi_scale_crop, resize


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def clip() -> np.ndarray:
    return generator(1).integers(0, 256, (4, 40, 60, 3), dtype=np.uint8)


def coordinates(height: int, width: int) -> np.ndarray:
    """Two frames whose red is the row and whose green is the column."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([np.stack([rows, columns, rows], axis=-1)] * 2)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (32, 32), (20, 30), (1, 1), (7, 200)])
def test_every_input_size_gives_contiguous_uint8_squares(train, shape):
    frames = generator().integers(0, 256, (3, *shape, 3), dtype=np.uint8)
    result = ClipTransform(32, train)(frames, generator())
    assert result.shape == (3, 32, 32, 3) and result.dtype == np.uint8 and result.flags.c_contiguous


def test_the_same_seed_gives_the_same_clip_and_others_do_not(clip):
    transform = ClipTransform(32, train=True)
    same = [transform(clip, generator(7)) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert any((transform(clip, generator(seed)) != same[0]).any() for seed in range(5))


def test_all_frames_of_a_clip_are_cropped_and_flipped_alike_and_the_input_is_left_alone(clip):
    transform, before = ClipTransform(32, train=True), clip.copy()
    for seed in range(10):
        whole = transform(clip, generator(seed))
        single = [transform(clip[i : i + 1], generator(seed)) for i in range(len(clip))]
        np.testing.assert_array_equal(whole, np.concatenate(single))
    ClipTransform(32, train=False)(clip, None)
    np.testing.assert_array_equal(clip, before)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flip_probability_is_kept_at_its_ends(clip, probability):
    square = clip[:, :40, :40]
    expected = square[:, :, ::-1] if probability else square
    for seed in range(5):
        transform = ClipTransform(40, True, probability, scales=(1.0,))
        np.testing.assert_array_equal(transform(square, generator(seed)), expected)


def test_about_half_of_the_training_clips_are_flipped(clip):
    square = clip[:, :40, :40]
    rng, transform = generator(), ClipTransform(40, True, scales=(1.0,))
    flips = sum((transform(square, rng) != square).any() for _ in range(400))
    assert 160 < flips < 240


def test_center_crop_takes_the_middle_pixels():
    result = center_crop(coordinates(128, 170), 112)
    assert result[0, 0, 0].tolist() == [8, 29, 8]
    assert result.shape == (2, 112, 112, 3)


def test_center_crop_enlarges_small_frames():
    result = ClipTransform(64, train=False)(coordinates(32, 48), None)
    assert result.shape == (2, 64, 64, 3)
    assert abs(int(result[0, 32, 32, 1]) - 24) <= 1  # the middle stays in the middle


def test_crops_reach_every_corner_and_every_scale():
    corners, sides = set(), set()
    frames, rng = coordinates(40, 60), generator()
    for _ in range(600):
        crop = multi_scale_crop(frames, 40, rng, scales=(1.0, 0.5)).astype(int)
        side = 20 if np.ptp(crop[..., 0]) < 30 else 40
        sides.add(side)
        corners.add((side, crop[0, 0, 0, 0] > 10, crop[0, 0, 0, 1] > 10))
    assert sides == {20, 40}
    assert {(20, down, right) for down in (False, True) for right in (False, True)} <= corners


def test_resizing_keeps_flat_colors_and_averages_when_shrinking():
    flat = np.full((1, 40, 60, 3), 77, dtype=np.uint8)
    assert (resize(flat, 13, 29) == 77).all()
    checker = np.indices((64, 64)).sum(axis=0) % 2 * 200
    small = resize(np.repeat(checker[None, ..., None], 3, axis=3).astype(np.uint8), 8, 8)
    assert abs(small.astype(int) - 100).max() <= 6  # aliasing would give 0 or 200


@pytest.mark.parametrize("options", [{"scales": ()}, {"scales": (1.5,)}, {"flip_probability": 2}])
def test_impossible_options_are_refused(options):
    with pytest.raises(UserError):
        ClipTransform(32, True, **options)
