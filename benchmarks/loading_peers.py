"""Ways in which others load a clip: 32 frames of a segment, short side 128, center crop 112.

Each takes (path, start s, end s) and returns (32, 112, 112, 3) uint8 RGB. All decode with one
thread. Those whose package is missing are left out of ``PEERS``.
"""

import contextlib
from collections.abc import Callable

import av
import numpy as np
import torch

from vt_fairseq.video.transforms import center_crop, resize

FRAMES, SHORT_SIDE, SIDE = 32, 128, 112
Loader = Callable[[str, float, float], np.ndarray]
PEERS: dict[str, Loader] = {}  # each name begins with whose way it is
OPTIONAL = ("decord", "torchcodec")


def times(start: float, end: float) -> np.ndarray:
    """Centers of 32 equal parts."""
    return start + (np.arange(FRAMES) + 0.5) * (end - start) / FRAMES


def small(frames: np.ndarray) -> np.ndarray:
    """(F, H, W, 3) scaled to the short side and cropped."""
    height, width = frames.shape[1:3]
    scale = SHORT_SIDE / min(height, width)
    return center_crop(resize(frames, round(height * scale), round(width * scale)), SIDE)


def small_size(path: str) -> tuple[int, int]:
    """Height and width of a video's frames scaled to the short side, by its header."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        scale = SHORT_SIDE / min(stream.height, stream.width)
        return round(stream.height * scale), round(stream.width * scale)


def last_before(pts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of the frame on screen at each wanted time."""
    return np.maximum(np.searchsorted(pts, wanted + 1e-4, side="right") - 1, 0)


def opened(path: str):
    """A PyAV container that decodes with one thread."""
    container = av.open(path)
    container.streams.video[0].thread_count = 1
    container.streams.video[0].thread_type = "NONE"
    return container


def every_frame_to_rgb(path: str, start: float, end: float) -> np.ndarray:
    """torchvision.io.read_video and pytorchvideo: seek, all frames of the segment to RGB."""
    with opened(path) as container:
        stream = container.streams.video[0]
        container.seek(int(start / stream.time_base), stream=stream)
        pts, frames = [], []
        for frame in container.decode(stream):
            if frame.time > end:
                break
            pts.append(frame.time)
            frames.append(frame.to_ndarray(format="rgb24"))
    picked = last_before(np.array(pts), times(start, end))
    return small(np.stack([frames[i] for i in picked]))


def from_frame_zero(path: str, start: float, end: float) -> np.ndarray:
    """transformers' ``read_video_pyav``: decode from the first frame, keep the wanted indices."""
    with opened(path) as container:
        rate = float(container.streams.video[0].average_rate)
        wanted = np.floor((times(start, end) + 1e-4) * rate).astype(int).tolist()
        kept = {}
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                kept[index] = frame.to_ndarray(format="rgb24")
            if index >= wanted[-1]:
                break
    return small(np.stack([kept[i] for i in wanted]))


PEERS["torchvision/pytorchvideo: every frame to RGB"] = every_frame_to_rgb
PEERS["transformers: decode from zero"] = from_frame_zero

with contextlib.suppress(ImportError, OSError, RuntimeError):
    import decord

    def with_decord(path: str, start: float, end: float) -> np.ndarray:
        """decord, scaled while it decodes."""
        height, width = small_size(path)
        reader = decord.VideoReader(path, num_threads=1, width=width, height=height)
        indices = np.floor((times(start, end) + 1e-4) * reader.get_avg_fps()).astype(int)
        return center_crop(reader.get_batch(indices).asnumpy(), SIDE)

    PEERS["decord"] = with_decord

with contextlib.suppress(ImportError, OSError, RuntimeError):
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import CenterCrop, Resize

    def with_torchcodec(seek_mode: str, own_scaler: bool) -> Loader:
        """torchcodec in one of its modes, with its own scaler or torch's."""

        def load(path: str, start: float, end: float) -> np.ndarray:
            transforms = [Resize(small_size(path)), CenterCrop((SIDE, SIDE))] if own_scaler else []
            decoder = VideoDecoder(
                path,
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                seek_mode=seek_mode,
                transforms=transforms,
            )
            frames = decoder.get_frames_played_at(times(start, end).tolist()).data.numpy()
            return frames if own_scaler else small(frames)

        return load

    for mode in ("exact", "approximate"):
        PEERS[f"torchcodec: {mode}, its scaler"] = with_torchcodec(mode, True)
        PEERS[f"torchcodec: {mode}, torch's scaler"] = with_torchcodec(mode, False)


def pure_decode(path: str, start: float, end: float) -> None:
    """The limit: decode the frames that others refer to, and do nothing with them."""
    with opened(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF"
        container.seek(int(start / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time > end:
                return


torch.set_num_threads(1)
