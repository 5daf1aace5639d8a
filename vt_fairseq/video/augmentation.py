"""Changes of training clips beyond crop and flip: other places, sizes, angles, light and speed.

Each is drawn once per clip, so that all its frames change alike and its motion stays. Shapes: F
frames, H W pixels; uint8 in, uint8 out. Random choices come from the generator that is passed.
"""

import math
from dataclasses import astuple, dataclass

import numpy as np
import torch
import torch.nn.functional as F

from vt_fairseq.errors import UserError

# How many frames are read per frame that is shown where times are jittered.
FRAMES_PER_SHOWN = 4
MIXED_CLIPS = 0.5  # share of the clips that ``mix_still`` is for


@dataclass(frozen=True)
class Augmentation:
    """How much training clips are changed; 0: not.

    Attributes:
        rotation: most degrees by which frames are turned, either way.
        stretch: height and width, each for itself, become up to 1 + ``stretch`` times as long or
            as short.
        shift: most of its height and width by which a frame is moved, in [0, 1).
        color: brightness, contrast, saturation and red, green and blue, each for itself, become up
            to 1 + ``color`` times as strong or as weak.
        gray: share of the clips that lose their colors, in [0, 1].
    """

    rotation: float = 0.0
    stretch: float = 0.0
    shift: float = 0.0
    color: float = 0.0
    gray: float = 0.0

    def __post_init__(self) -> None:
        if not all(0 <= value < math.inf for value in astuple(self)):
            raise UserError(f"augmentation must be numbers from 0 on, found {self}")
        if self.shift >= 1 or self.gray > 1 or self.rotation > 180:
            raise UserError(f"a shift is below 1, a share at most 1, degrees at most 180: {self}")

    def moved(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(F, H, W, 3) uint8, turned, stretched and shifted; black where nothing is."""
        if not (self.rotation or self.stretch or self.shift):
            return frames
        angle = math.radians(rng.uniform(-self.rotation, self.rotation))
        sides = [factor(self.stretch, rng) for _ in "xy"]
        x, y = (2 * rng.uniform(-self.shift, self.shift) for _ in "xy")
        height, width = frames.shape[1:3]
        turned = math.cos(angle), math.sin(angle) * height / width, math.sin(angle) * width / height
        # From places of the result to places of the frame, both in [-1, 1].
        affine = torch.tensor(
            [
                [turned[0] / sides[0], -turned[1] / sides[1], x],
                [turned[2] / sides[0], turned[0] / sides[1], y],
            ],
            dtype=torch.float32,
        )
        # All frames of all colors are the channels of one image.
        image = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        image = image.reshape(1, -1, height, width).float()
        grid = F.affine_grid(affine[None], [1, 1, height, width], align_corners=False)
        moved = F.grid_sample(image, grid, align_corners=False).round_().to(torch.uint8)
        return moved.view(-1, 3, height, width).permute(0, 2, 3, 1).numpy()

    def recolored(self, frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(F, H, W, 3) uint8 in other colors."""
        if not (self.color or self.gray):
            return frames
        brightness, contrast, saturation = (factor(self.color, rng) for _ in range(3))
        colors = np.array([factor(self.color, rng) for _ in "rgb"])
        saturation *= rng.random() >= self.gray
        # The mean of the three, and what each has beyond it.
        mean = np.full((3, 3), 1 / 3)
        matrix = (mean + saturation * (np.eye(3) - mean)) * colors[:, None] * contrast
        middle = frames.mean() * (brightness - contrast)
        changed = frames.astype(np.float32) @ matrix.T.astype(np.float32) + np.float32(middle)
        return changed.round().clip(0, 255).astype(np.uint8)


def factor(most: float, rng: np.random.Generator) -> float:
    """In [1 / (1 + most), 1 + most], as often below 1 as above."""
    return math.exp(rng.uniform(-1, 1) * math.log1p(most))


def jittered(num_frames: int, count: int, jitter: float, rng: np.random.Generator) -> np.ndarray:
    """(num_frames,) int64, ascending: which of a clip's ``count`` frames are shown.

    Start and end lie up to ``jitter`` of the clip further inside or half as much outside, where the
    first or last frame stands still; the speed rises or falls by up to 1 + 2 ``jitter`` times in
    between. Each part of the clip that a frame stands for shows a random moment of it.
    """
    start, end = (rng.uniform(-jitter / 2, jitter) for _ in range(2))
    steps = (np.arange(num_frames) + rng.random(num_frames)) / num_frames
    moments = start + (1 - end - start) * steps ** factor(2 * jitter, rng)
    return np.clip(np.floor(moments * count), 0, count - 1).astype(np.int64)


def mix_still(
    frames: np.ndarray, other: np.ndarray, most: float, rng: np.random.Generator
) -> np.ndarray:
    """Frames behind which one frame of another clip shines through: another background.

    After Wang et al. 2021 (Removing the Background by Adding the Background), whose still frame is
    of the same clip.

    Args:
        frames, other: (F, H, W, 3) uint8.
        most: weight of the still frame, which is drawn from [0, most).
    """
    weight = np.float32(rng.uniform(0, most))
    still = other[rng.integers(len(other))].astype(np.float32)
    return (frames * (1 - weight) + still * weight).round().astype(np.uint8)
