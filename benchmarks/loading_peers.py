"""Ways in which others load a clip: 32 frames of a segment, short side 128, centre crop 112.

Each takes (path, start s, end s) and returns (32, 112, 112, 3) uint8 RGB. All decode with one
thread. Those whose package is missing are left out of ``PEERS``.
"""

import contextlib
from collections.abc import Callable

import av
import numpy as np
import torch

from vt_fairseq.data.transforms import centre_crop, resize

FRAMES, SHORT_SIDE, SIDE = 32, 128, 112
Loader = Callable[[str, float, float], np.ndarray]
PEERS: dict[str, Loader] = {}


def times(start: float, end: float) -> np.ndarray:
    """Centres of 32 equal parts."""
    return start + (np.arange(FRAMES) + 0.5) * (end - start) / FRAMES


def small(frames: np.ndarray) -> np.ndarray:
    """(F, H, W, 3) scaled to the short side and cropped."""
    height, width = frames.shape[1:3]
    scale = SHORT_SIDE / min(height, width)
    return centre_crop(resize(frames, round(height * scale), round(width * scale)), SIDE)


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


PEERS["torchvision/pytorchvideo pattern"] = every_frame_to_rgb
PEERS["decode from zero (transformers)"] = from_frame_zero

with contextlib.suppress(ImportError, OSError, RuntimeError):
    import decord

    def with_decord(path: str, start: float, end: float) -> np.ndarray:
        """decord, scaled while it decodes."""
        first = decord.VideoReader(path, num_threads=1)
        height, width = first[0].shape[:2]
        scale = SHORT_SIDE / min(height, width)
        size = {"width": round(width * scale), "height": round(height * scale)}
        reader = decord.VideoReader(path, num_threads=1, **size)
        indices = np.floor((times(start, end) + 1e-4) * reader.get_avg_fps()).astype(int)
        return centre_crop(reader.get_batch(indices).asnumpy(), SIDE)

    PEERS["decord"] = with_decord

with contextlib.suppress(ImportError, OSError, RuntimeError):
    from torchcodec.decoders import VideoDecoder

    def with_torchcodec(seek_mode: str) -> Loader:
        """torchcodec in one of its modes, then torch's resize."""

        def load(path: str, start: float, end: float) -> np.ndarray:
            decoder = VideoDecoder(
                path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode
            )
            frames = decoder.get_frames_played_at(times(start, end).tolist()).data
            return small(frames.numpy())

        return load

    PEERS["torchcodec exact"] = with_torchcodec("exact")
    PEERS["torchcodec approximate"] = with_torchcodec("approximate")


def pure_decode(path: str, start: float, end: float, skip: bool) -> None:
    """The limit: decode the segment and do nothing with it."""
    with opened(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
        container.seek(int(start / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time > end:
                return


torch.set_num_threads(1)
