"""How large the models are and how long they learn, from a smoke test to a GPU."""

from dataclasses import dataclass

TINY_VIDEO = ("--num-frames", "8", "--frame-size", "40")


@dataclass(frozen=True)
class Scale:
    """One size of the whole experiment.

    Attributes:
        world: MiniWorld's size.
        updates: of the baseline and of each of its variants.
        batch: clips.
        rate: learning rate of pretraining at its peak.
        model: architecture and input of training.
        device: options of every command that computes.
        resumable: checkpoints hold the optimizer's state and are written every epoch. Without, an
            interrupted training starts anew, and the disk does not fill.
        workers: decoding processes of a training.
        sizes: --t5-dims of part (f) by name; "" is the baseline's.
        seeds, at_once, seconds (the time limit): where the command does not say otherwise.
    """

    name: str
    world: str
    updates: int
    batch: int
    rate: str
    model: tuple[str, ...]
    device: tuple[str, ...]
    sizes: dict[str, str]
    seeds: str
    at_once: int
    workers: int = 1
    resumable: bool = True
    seconds: float = float("inf")


TINY = ("--arch", "video_translate_tiny", *TINY_VIDEO)
# Three transformers around the tiny one's 128 wide, 2 layers.
TINY_SIZES = {
    "half": "d_model=64,d_ff=128,num_heads=2,num_layers=1,num_decoder_layers=1",
    "baseline": "",
    "double": "d_model=256,d_ff=512,num_heads=8,num_layers=4,num_decoder_layers=4",
}
# A quarter and half of t5-small, which is the baseline here.
SMALL_SIZES = {
    "quarter": "d_model=128,d_ff=512,num_heads=2,num_layers=2,num_decoder_layers=2",
    "half": "d_model=256,d_ff=1024,num_heads=4,num_layers=4,num_decoder_layers=4",
    "baseline": "",
}
CPU = ("--cpu",)

SCALES = {
    scale.name: scale
    for scale in (
        Scale("smoke", "tiny", 4, 8, "1e-3", TINY, CPU, TINY_SIZES, "1", 2),
        Scale("quick", "default", 600, 32, "1e-3", TINY, CPU, TINY_SIZES, "1", 2, seconds=900),
        Scale("cpu", "default", 1500, 32, "1e-3", TINY, CPU, TINY_SIZES, "1,2,3", 2),
        Scale(
            *("gpu", "default", 600, 64, "5e-4"),
            model=(
                *("--arch", "video_translate_t5_small", "--video-network", "34-quarter"),
                *("--video-lr-scale", "1", "--dropout", "0", "--num-frames", "16"),
                *("--frame-size", "48"),
            ),
            device=(),
            sizes=SMALL_SIZES,
            seeds="1,2,3",
            at_once=8,
            workers=2,
            resumable=False,
        ),
    )
}
