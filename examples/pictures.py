"""README's pictures: the first clips of a quickstart's test split, and what the model says of them.

    python examples/pictures.py quickstart docs/images

writes one PNG per clip and prints the rows of README's table.
"""

import sys
from pathlib import Path

import av
import numpy as np

from vt_fairseq.data.manifest import DataDirectory
from vt_fairseq.files.atomic_files import write_file
from vt_fairseq.files.result_files import read
from vt_fairseq.video.decoding import read_clip
from vt_fairseq.video.frame_sampling import FrameSampling

CLIPS, FRAMES, SIDE = 3, 6, 64


def png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG file."""
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.time_base = "rgb24", 1
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    return b"".join(bytes(p) for p in (*encoder.encode(frame), *encoder.encode(None)))


def main() -> None:
    """Write the pictures and print the table."""
    quickstart, out = map(Path, sys.argv[1:])
    data = DataDirectory.open(quickstart / "data", quickstart / "data" / "world" / "videos")
    written, answers = (
        read(quickstart / name / "predictions.jsonl") for name in ("caption-test", "vqa-test")
    )
    print("| a clip | written | asked | answered |\n|---|---|---|---|")
    for number, row in enumerate(data.manifest("test")):
        if number == CLIPS:
            break
        sampling = FrameSampling(num_frames=FRAMES, max_seconds=None)
        video = str(data.video_root / row.video)
        frames = read_clip(
            video, sampling, start=row.start, end=row.end, window="whole", short_side=SIDE
        )
        name = f"miniworld-{number + 1}.png"
        write_file(out / name, png(np.concatenate(list(frames), axis=1)))
        right, caption = row.candidates[row.answer or 0], written[row.id]["prediction"]
        answer = row.candidates[answers[row.id]["prediction"]]
        print(
            f"| ![{row.captions[0]}](docs/images/{name}) "
            f"| {caption}{'' if caption in row.captions else f' ({row.captions[0]})'} "
            f"| {row.question} | {answer}{'' if answer == right else f' ({right})'} |"
        )


if __name__ == "__main__":
    main()
