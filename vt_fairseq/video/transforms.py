"""Crops and flips of clips, the same for every frame of a clip (paper, appendix A.1).

Shapes: F frames, H W pixels; uint8 in, uint8 out: normalization happens on the device.
Random choices come from the generator that is passed, so they can be repeated.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from vt_fairseq.errors import UserError
from vt_fairseq.video.augmentation import Augmentation

SCALES = (1.0, 0.875, 0.75, 0.66)  # sides of crops relative to the short side, as in TSN


def multi_scale_crop(
    frames: np.ndarray, size: int, rng: np.random.Generator, scales: tuple[float, ...]
) -> np.ndarray:
    """A square crop, uniform in its scale and then in its position, resized.

    Args:
        frames: (F, H, W, 3) uint8.
        size: side of the result in pixels.
        scales: the crop's side is one of these times the short side.

    Returns:
        (F, size, size, 3) uint8.
    """
    height, width = frames.shape[1:3]
    side = max(1, round(min(height, width) * scales[rng.integers(len(scales))]))
    top = rng.integers(height - side + 1)
    left = rng.integers(width - side + 1)
    return resize(frames[:, top : top + side, left : left + side], size, size)


def center_crop(frames: np.ndarray, size: int) -> np.ndarray:
    """The (F, size, size, 3) square in the middle of (F, H, W, 3) uint8.

    Frames whose short side is less than ``size`` are enlarged first until it is ``size``.
    """
    if min(frames.shape[1:3]) < size:
        frames = scale_short_side(frames, size)
    height, width = frames.shape[1:3]
    top, left = (height - size) // 2, (width - size) // 2
    return frames[:, top : top + size, left : left + size]


def scale_short_side(frames: np.ndarray, size: int) -> np.ndarray:
    """(F, H, W, 3) uint8 with a short side of ``size`` pixels and the same ratio of the sides."""
    height, width = frames.shape[1:3]
    scale = size / min(height, width)
    return resize(frames, round(height * scale), round(width * scale))


def resize(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """(F, height, width, 3) uint8 from (F, H, W, 3) uint8, bilinear and antialiased."""
    if frames.shape[1:3] == (height, width):
        return frames
    # Channels last is what the uint8 kernel is fast for; a flipped view has to be copied.
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    resized = F.interpolate(
        images, (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized.permute(0, 2, 3, 1).numpy()


@dataclass(frozen=True)
class ClipTransform:
    """Frames of any size to (F, size, size, 3) uint8, contiguous.

    Attributes:
        size: side of the result in pixels.
        train: random multi-scale crop and flip; else the center crop.
        flip_probability: of the horizontal flip, in training.
        scales: of ``multi_scale_crop``, each in (0, 1].
        whole: the frame is squeezed into a square before the crop, so that the test sees all of it.
        augmentation: what else changes in training.
    """

    size: int
    train: bool
    flip_probability: float = 0.5
    scales: tuple[float, ...] = SCALES
    whole: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise UserError(f"crop scales must be numbers in (0, 1], found {self.scales}")
        if self.size < 1 or not 0 <= self.flip_probability <= 1:
            raise UserError(
                "the frame size must be positive and the flip probability in [0, 1], found "
                f"{self.size} and {self.flip_probability}"
            )

    def __call__(self, frames: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Transform (F, H, W, 3) uint8; ``rng`` is needed in training alone."""
        if not self.train and self.whole:
            return np.ascontiguousarray(resize(frames, self.size, self.size))
        if not self.train:
            return np.ascontiguousarray(center_crop(frames, self.size))
        if rng is None:
            raise ValueError("training crops need a random generator")
        if self.whole:
            frames = resize(frames, *[min(frames.shape[1:3])] * 2)
        frames = self.augmentation.moved(frames, rng)
        cropped = multi_scale_crop(frames, self.size, rng, self.scales)
        if rng.random() < self.flip_probability:
            cropped = cropped[:, :, ::-1]
        return np.ascontiguousarray(self.augmentation.recolored(cropped, rng))
