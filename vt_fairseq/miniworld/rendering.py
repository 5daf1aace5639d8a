"""How a MiniWorld clip looks: one colored shape that acts before a gray background.

A pose has three numbers (x, y, size). An action moves one of them, or none, along a sawtooth
whose phase is drawn uniformly, and the others rest at values drawn uniformly. So at every single
frame all three numbers are distributed alike for all actions: one frame does not give the action
away, only the motion does. No action tells left from right, because training mirrors clips.
"""

import numpy as np

SIDE = 64  # pixels; even, as yuv420p needs
COLORS = {
    "red": (225, 40, 40),
    "green": (40, 170, 50),
    "blue": (45, 70, 230),
    "yellow": (240, 220, 40),
    "pink": (230, 70, 205),
    "cyan": (40, 215, 225),
}
SHAPES = ("square", "triangle", "cross", "moon")
ACTIONS = ("rise", "fall", "slide", "grow", "shrink", "rest")

X, Y, SIZE = range(3)
# [low, high) of each number of a pose: x, y and size (the circumradius) as a fraction of the
# frame's side, x to the right, y down. 0.7 + 0.33 > 1: a big one may lose a tip at
# the frame's edge.
POSE_LOW = np.array([0.32, 0.30, 0.18])
POSE_HIGH = np.array([0.68, 0.70, 0.33])
# The number that an action moves and in which direction; 0: either.
MOVES = {"rise": (Y, -1), "fall": (Y, 1), "slide": (X, 0), "grow": (SIZE, 1), "shrink": (SIZE, -1)}
CYCLES = (1.0, 1.4)  # sawtooth periods per clip, uniform

_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE] + 0.5  # pixel centers


def poses(action: str, frames: int, rng: np.random.Generator) -> np.ndarray:
    """The pose at each frame of a clip: float (F, 3), in [POSE_LOW, POSE_HIGH)."""
    phase = np.tile(rng.random(3), (frames, 1))
    if action in MOVES:  # all but rest
        number, direction = MOVES[action]
        sign = direction or rng.choice((-1, 1))
        phase[:, number] += sign * rng.uniform(*CYCLES) * np.arange(frames) / frames
    return POSE_LOW + (phase % 1.0) * (POSE_HIGH - POSE_LOW)


def clip_frames(
    color: str, shape: str, action: str, *, frames: int, lead: int, rng: np.random.Generator
) -> np.ndarray:
    """``lead`` frames of background alone, then F frames of the act: uint8 (lead + F, H, W, 3)."""
    paint = np.array(COLORS[color]) + rng.uniform(-12, 12, size=3)
    gray = np.repeat(_background(rng)[None], lead + frames, axis=0)
    gray = _with_dot(gray, rng)
    mask = np.zeros((lead + frames, SIDE, SIDE, 1))
    mask[lead:, ..., 0] = shape_mask(shape, poses(action, frames, rng))
    image = gray[..., None] * (1 - mask) + paint * mask
    return np.clip(image.round(), 0, 255).astype(np.uint8)


def shape_mask(shape: str, pose: np.ndarray) -> np.ndarray:
    """How much of each pixel the shape covers: float (F, H, W) in [0, 1], from poses (F, 3)."""
    x, y, size = (pose[:, n, None, None] for n in range(3))
    dx, dy = _COLUMNS - x * SIDE, _ROWS - y * SIDE
    radius = size * SIDE
    outside = _distance(shape, dx / radius, dy / radius)
    return np.clip(0.5 - outside * radius, 0, 1)  # a ramp one pixel wide smooths the edge


def _distance(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Roughly the distance from the shape's edge, negative inside, in units of its circumradius."""
    if shape == "square":
        return np.maximum(abs(u), abs(v)) - 0.75
    if shape == "triangle":
        return np.maximum(v, abs(u) * np.sqrt(0.75) - v / 2) - 0.5
    if shape == "cross":
        across, along = np.minimum(abs(u), abs(v)), np.maximum(abs(u), abs(v))
        return np.maximum(across - 0.28, along - 0.95)
    return np.maximum(np.hypot(u, v) - 0.95, 0.75 - np.hypot(u - 0.5, v))  # moon


def _background(rng: np.random.Generator) -> np.ndarray:
    """A still gray picture of low contrast: float (H, W), within [20, 190]."""
    base, contrast = rng.uniform(45, 165), rng.uniform(5, 15)
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0, SIDE)
    along = np.cos(angle) * _COLUMNS + np.sin(angle) * _ROWS
    tile = rng.integers(6, 14)  # pixels
    patterns = (
        lambda: 1.4 * (along - along.mean()) / SIDE,  # gradient
        lambda: np.sin(2 * np.pi * along / tile),  # stripes
        lambda: ((_COLUMNS + offset) // tile + (_ROWS + offset) // tile) % 2 * 2 - 1,  # checker
        lambda: rng.uniform(-1, 1, size=(SIDE, SIDE)),  # noise
    )
    pattern = patterns[rng.integers(len(patterns))]()
    return base + contrast * np.clip(pattern, -1, 1)


def _with_dot(gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In half of the clips a small gray dot drifts by, so that not everything that moves counts."""
    if rng.random() < 0.5:
        return gray
    time = np.arange(len(gray))[:, None, None]
    step_x, step_y = rng.uniform(-2, 2, size=2)  # pixels per frame
    x, y = ((rng.uniform(0, SIDE) + step * time) % SIDE for step in (step_x, step_y))
    cover = np.clip(3.5 - np.hypot(_COLUMNS - x, _ROWS - y), 0, 1)  # radius 3 pixels
    return gray * (1 - cover) + rng.uniform(20, 230) * cover
