"""Ready-made video networks give the features of the models that they are made around."""

import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

import vt_fairseq.plugin  # noqa: F401
from tests.commands import run
from tests.weights import vocabulary, write_t5
from vt_fairseq.errors import UserError
from vt_fairseq.models.architectures import TinyConfig, build_model
from vt_fairseq.models.checkpoint_state import check_sizes, read_checkpoint
from vt_fairseq.models.networks.pooling import TokenPooling
from vt_fairseq.models.networks.torchvision_video import SHAPES, TorchvisionVideo
from vt_fairseq.models.video_backbones import (
    VIDEO_NETWORKS,
    ReadyMade,
    joined_name,
    make_network,
    network_maker,
)
from vt_fairseq.models.video_translate import VideoTokens
from vt_fairseq.training.memory.prediction import BatchShape, Run, Setup, suggestions

SMALL = {
    **{"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    "intermediate_size": 64,
}
CLIPS = {"image_size": 32, "num_frames": 4}
PATCHES = {"image_size": 32, "patch_size": 16}
JEPA = {
    **{"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2.0},
    **{"crop_size": 32, "frames_per_clip": 4, "num_pooler_layers": 1, "pred_hidden_size": 48},
    **{"pred_num_attention_heads": 4, "pred_num_hidden_layers": 1},
}
DINO = {
    **{"image_size": 28, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
}
CLIP = {
    "vision_config": {**PATCHES, **SMALL},
    "text_config": {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, **SMALL},
}
# Network, transformers' model and configuration: the plain model, and others that hold it.
MODELS = [
    ("videomae", "VideoMAEModel", "VideoMAEConfig", {**CLIPS, **SMALL}),
    ("videomae", "VideoMAEForVideoClassification", "VideoMAEConfig", {**CLIPS, **SMALL}),
    (
        *("videomae", "VideoMAEForPreTraining", "VideoMAEConfig"),
        {**CLIPS, **SMALL, "use_mean_pooling": False},
    ),
    ("vjepa2", "VJEPA2Model", "VJEPA2Config", JEPA),
    ("vjepa2", "VJEPA2ForVideoClassification", "VJEPA2Config", JEPA),
    ("vivit", "VivitModel", "VivitConfig", {**CLIPS, **SMALL}),
    ("vivit", "VivitForVideoClassification", "VivitConfig", {**CLIPS, **SMALL}),
    ("timesformer", "TimesformerModel", "TimesformerConfig", {**CLIPS, **SMALL}),
    ("timesformer", "TimesformerForVideoClassification", "TimesformerConfig", {**CLIPS, **SMALL}),
    ("clip", "CLIPVisionModel", "CLIPVisionConfig", {**PATCHES, **SMALL}),
    ("clip", "CLIPModel", "CLIPConfig", CLIP),
    ("dinov2", "Dinov2Model", "Dinov2Config", DINO),
    ("dinov2", "Dinov2ForImageClassification", "Dinov2Config", DINO),
]
IDS = [model for _, model, *_ in MODELS]


def write(folder: Path, model: str, config: str, sizes: dict) -> torch.nn.Module:
    """A Hugging Face folder whose every tensor has values of its own; returns what is in it."""
    torch.manual_seed(3)
    made = getattr(transformers, model)(getattr(transformers, config)(**sizes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3)
    made.save_pretrained(folder)
    return made


def opened(name: str, folder: Path, **arguments):
    """The network with the folder's sizes and weights."""
    sizes = network_maker(name).arguments_of(folder)
    network = make_network(joined_name(name, {**sizes, **arguments})).eval()
    return network, network.load_pretrained(folder)


def clip(network, frames: int = 4) -> torch.Tensor:
    torch.manual_seed(4)
    return torch.randn(2, 3, frames, network.frame_size, network.frame_size)


@torch.no_grad()
def expected(name: str, original, video: torch.Tensor) -> torch.Tensor:
    """(B, T, P, C) by the original's own forward pass, token by token where the order matters."""
    frames = video.transpose(1, 2)  # (B, F, 3, H, W)
    inner = getattr(original, original.base_model_prefix, original)
    if name == "clip":
        inner = getattr(original, "vision_model", inner)
        images = [inner(pixel_values=frames[:, f]).pooler_output for f in range(frames.size(1))]
        return torch.stack(images).mean(dim=0)[:, None, None]
    if name == "dinov2":
        images = [inner(frames[:, f]).last_hidden_state[:, 0] for f in range(frames.size(1))]
        return torch.stack(images).mean(dim=0)[:, None, None]
    if name == "vjepa2":
        states = inner(frames, skip_predictor=True).last_hidden_state
    else:
        states = inner(frames).last_hidden_state
    if name in ("vivit", "timesformer"):
        states = states[:, 1:]
    if name == "timesformer":  # all frames of a patch, then of the next
        rows = [states[:, f :: frames.size(1)] for f in range(frames.size(1))]
        return torch.stack(rows, dim=1)
    return torch.stack(states.split(4, dim=1), dim=1)  # 2 x 2 patches of a tube


@pytest.mark.parametrize(("name", "model", "config", "sizes"), MODELS, ids=IDS)
def test_features_are_those_of_the_original(tmp_path, name, model, config, sizes):
    original = write(tmp_path, model, config, sizes)
    network, report = opened(name, tmp_path)
    video = clip(network)
    tokens = expected(name, original, video)
    with torch.no_grad():
        torch.testing.assert_close(network.tokens_of(video), tokens, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network(video), tokens.mean(2), rtol=1e-5, atol=1e-5)
    assert network.num_tokens(4) == tokens.size(1) and network.width == 48
    assert report.new == []
    assert bool(report.dropped) == (model not in PLAIN)


# Models that have nothing but what the network uses.
PLAIN = {"VideoMAEModel", "TimesformerModel", "CLIPVisionModel"}


@pytest.mark.parametrize("name", sorted({name for name, *_ in MODELS}))
def test_every_parameter_is_trained_but_the_frozen_ones(name):
    sizes = {n: (c, s) for n, _, c, s in reversed(MODELS)}[name][1]
    sizes = {k: v for k, v in sizes.items() if k in network_maker(name).SIZES}
    network = make_network(joined_name(name, {**sizes, "pooling": "attention", "tokens": 3}))
    video = clip(network)

    def trained() -> set[str]:
        network.zero_grad()
        network(video).square().sum().backward()
        return {n for n, p in network.named_parameters() if p.grad is not None}

    everything = {n for n, _ in network.named_parameters()}
    assert trained() == everything and network(video).shape == (2, 3, 48)
    network.freeze("all")
    assert trained() == {n for n in everything if n.startswith("pool.")}
    network.train()
    assert not any(module.training for module in network.model.modules())
    network.freeze("all-but-last")
    moved = trained()
    assert {n for n in moved if n.startswith("model.")} == {
        n for n in everything if "layer.1." in n or "layers.1." in n
    }
    network.freeze("none")
    assert trained() == everything


def test_weights_that_do_not_fit_are_refused(tmp_path):
    write(tmp_path, "VideoMAEModel", "VideoMAEConfig", {**CLIPS, **SMALL})
    with pytest.raises(UserError, match=r"is \(.*48.*\), the model's \(.*40"):
        opened("videomae", tmp_path, hidden_size=40)
    with pytest.raises(UserError, match=r"has no encoder\.layer\.2"):
        opened("videomae", tmp_path, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"encoder.layer.1.* that the model has no place for"):
        opened("videomae", tmp_path, num_hidden_layers=1)
    with pytest.raises(UserError, match="expected model_type vivit, found 'videomae'"):
        opened("vivit", tmp_path)


def test_a_config_is_data_and_its_values_have_their_types(tmp_path):
    write(tmp_path, "VideoMAEModel", "VideoMAEConfig", {**CLIPS, **SMALL})
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}}))
    opened("videomae", tmp_path)
    path.write_text(json.dumps({**config, "hidden_size": "48"}))
    with pytest.raises(UserError, match="hidden_size is '48', no int"):
        opened("videomae", tmp_path)


def test_the_colors_beside_the_weights_are_taken(tmp_path):
    write(tmp_path, "VideoMAEModel", "VideoMAEConfig", {**CLIPS, **SMALL})
    colors = {"image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 0.5, 1.0]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(colors))
    network, _ = opened("videomae", tmp_path)
    frames = torch.full((1, 4, 32, 32, 3), 51, dtype=torch.uint8)  # 0.2 of 255
    seen = VideoTokens(network, 8, "none").normalize(frames, torch.float32)
    found = [seen[0, channel].unique().item() for channel in range(3)]
    assert found == pytest.approx([(0.2 - 0.5) / 0.5, (0.2 - 0.25) / 0.5, (0.2 - 0.125) / 1.0])


def test_one_number_beside_the_weights_is_that_of_every_color(tmp_path):
    write(tmp_path, "VideoMAEModel", "VideoMAEConfig", {**CLIPS, **SMALL})
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": 0.5, "image_std": 0.25}')
    network, _ = opened("videomae", tmp_path)
    assert (network.mean, network.std) == ((0.5,) * 3, (0.25,) * 3)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": {"red": 1}}')
    with pytest.raises(UserError, match="expected three numbers, for red, green and blue"):
        opened("videomae", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("videomae:hidden_sizes=3", "videomae has no argument 'hidden_sizes': expected"),
        ("videomae:hidden_size", "expected NAME:argument=value"),
        ("videomae:hidden_size=8,hidden_size=9", "each argument once"),
        ("videomae:hidden_size=big", "hidden_size=big: expected a value of the type int up to"),
        ("videomae:hidden_size=1000000", "up to 65,536"),
        ("videomae:layer_norm_eps=nan", "expected a value of the type float"),
        ("videomae:use_mean_pooling=1", "expected true or false"),
        ("videomae:hidden_act=nothing", "cannot be made so"),
        ("videomae:hidden_size=-48", "cannot be made so"),
        ("videomae:patch_size=0", "cannot be made so"),
        ("videomae:num_hidden_layers=60000", "expected at most 1000 layers"),
        ("vivit:image_size=65536,tube_pixels=1", "expected at most 1000 layers and 268,435,456"),
        ("videomae:pooling=most", "pooling=most,tokens=0: expected spatial, none, or attention"),
        ("videomae:tokens=-1", "expected spatial, none, or attention with its"),
        ("videomae:std=0/0/0", "its std of colors is .*, expected three numbers for red"),
        ("videomae:frames_per_second=-3", "its frames_per_second is -3.0, expected a number from"),
        ("videomae:tokens=3", "expected spatial, none, or attention with its"),
        ("videomae:mean=0.5", "expected three numbers"),
        ("tiny:dims=3", "tiny has no argument 'dims': expected none"),
        ("videomaee", "videomaee: expected one of tiny"),
    ],
)
def test_a_name_that_makes_no_network_says_why(text, message):
    with pytest.raises(UserError, match=message) as error:
        build_model(TinyConfig(video_network=text), 384, 303)
    assert str(error.value).startswith("--video-network ") and "\n" not in str(error.value)


def test_a_library_that_does_not_import_is_named_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match="needs torchvision, which does not import beside torch"):
        make_network("r3d_18")


# Pooling, over tokens whose value is 10 * step + place


def test_pooling_is_over_places_or_nothing_or_learned():
    x = (10.0 * torch.arange(3)[:, None] + torch.arange(4)).view(1, 3, 4, 1).repeat(1, 1, 1, 8)
    spatial = TokenPooling(8)
    assert spatial(x)[0, :, 0].tolist() == [1.5, 11.5, 21.5] and spatial.num_tokens(3, 4) == 3
    none = TokenPooling(8, "none")
    assert none(x)[0, :, 0].tolist() == [10 * t + p for t in range(3) for p in range(4)]
    torch.manual_seed(0)
    learned = TokenPooling(8, "attention", 5)
    y = torch.randn(2, 3, 4, 8)
    assert learned(y).shape == (2, 5, 8) and learned.num_tokens(3, 4) == 5
    shuffled = y.flatten(1, 2)[:, torch.randperm(12)].view_as(y)  # attention sees a set
    torch.testing.assert_close(learned(y), learned(shuffled))


def test_an_image_encoders_tokens_are_means_over_so_many_frames(tmp_path):
    write(tmp_path, "Dinov2Model", "Dinov2Config", DINO)
    every, _ = opened("dinov2", tmp_path, frames_per_token=1, patches=True, pooling="none")
    mean, _ = opened("dinov2", tmp_path, frames_per_token=3, patches=True, pooling="none")
    video = clip(every, 4)
    with torch.no_grad():
        each = every(video).unflatten(1, (4, 4))
        found = mean(video)
    torch.testing.assert_close(found[:, :4], each[:, :3].mean(1))
    torch.testing.assert_close(found[:, 4:], each[:, 3])
    assert mean.num_tokens(4) == 8


# torchvision


@pytest.fixture
def video_models(monkeypatch):
    """torchvision's video models; skips with the reason where it does not import."""
    try:
        return importlib.import_module("torchvision.models.video")
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchvision beside torch {torch.__version__}: {error}")


TORCHVISION = {  # frames, side, and where the original has the features
    **{"r3d_18": (16, 32, "layer4"), "mc3_18": (4, 32, "layer4"), "s3d": (16, 224, "features")},
    **{"mvit_v1_b": (16, 224, "norm"), "mvit_v2_s": (16, 224, "norm")},
    **{"swin3d_t": (4, 64, "norm"), "swin3d_s": (4, 64, "norm"), "swin3d_b": (4, 64, "norm")},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TORCHVISION))
def test_features_are_those_of_torchvision(video_models, tmp_path, name):
    frames, side, where = TORCHVISION[name]
    torch.manual_seed(3)
    original = getattr(video_models, name)(num_classes=5).eval()
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    arguments = {} if side == 224 else {"frame_size": side}
    network = make_network(joined_name(name, arguments)).eval()
    weights = next(w for w in vars(video_models) if w.lower() == f"{name}_weights")
    preset = getattr(video_models, weights).DEFAULT.transforms()
    assert (tuple(preset.mean), tuple(preset.std)) == (network.mean, network.std)
    dropped = network.load_pretrained(tmp_path / "weights.pth").dropped
    assert dropped and all(n.split(".")[0] in ("fc", "head", "classifier") for n in dropped)
    seen = []
    getattr(original, where).register_forward_hook(lambda m, x, y: seen.append(y))
    video = clip(network, frames)[:1]
    with torch.no_grad():
        original(video)
        found = network(video)
    states = seen[-1]
    if where == "norm" and states.dim() == 3:  # a class token, then the places of each step
        tokens = states[:, 1:].unflatten(1, (found.size(1), -1)).mean(2)
    elif where == "norm":
        tokens = states.mean(dim=(2, 3))
    else:
        tokens = states.mean(dim=(3, 4)).transpose(1, 2)
    torch.testing.assert_close(found, tokens, rtol=1e-4, atol=1e-4)
    assert found.shape == (1, network.num_tokens(frames), network.width)


def test_tokens_are_the_places_of_torchvisions_features_whatever_their_order():
    """Of stand-ins: a ResNet gives (B, C, T, H, W), a Swin transformer (B, T, H, W, C)."""
    features = torch.arange(2 * 3 * 4 * 5 * 6.0).view(2, 3, 4, 5, 6)
    same = {"stem": nn.Identity(), **{f"layer{n}": nn.Identity() for n in range(1, 5)}}
    found = TorchvisionVideo.tokens_of(SimpleNamespace(model=SimpleNamespace(**same)), features)
    assert found.shape == (2, 4, 30, 3)
    assert torch.equal(found[1, 2, 6 * 3 + 4], features[1, :, 2, 3, 4])
    same = dict.fromkeys(("patch_embed", "pos_drop", "features", "norm"), nn.Identity())
    found = TorchvisionVideo.tokens_of(SimpleNamespace(model=SimpleNamespace(**same)), features)
    assert found.shape == (2, 3, 20, 6)
    assert torch.equal(found[1, 2, 5 * 3 + 4], features[1, 2, 3, 4])


def test_swin_transformers_are_eight_times_as_wide_in_the_end_as_in_the_beginning():
    """Liu et al. 2021, section 3.3: C = 96, 96 and 128, doubled before three of four stages."""
    assert {name: SHAPES[f"swin3d_{name}"][0] for name in "tsb"} == {"t": 768, "s": 768, "b": 1024}


def test_torchvisions_table_has_every_name():
    ours = {n for n, made in VIDEO_NETWORKS.items() if isinstance(made, ReadyMade)}
    assert set(TORCHVISION) == ours - {name for name, *_ in MODELS}


# From vt-init to a caption


@pytest.fixture(scope="module")
def initial(tmp_path_factory) -> tuple[Path, str, Path]:
    """A checkpoint of vt-init with a VideoMAE, what the command said, and the VideoMAE's folder."""
    folder = tmp_path_factory.mktemp("videomae")
    write_t5(folder / "t5", vocabulary())
    write(folder / "videomae", "VideoMAEModel", "VideoMAEConfig", {**CLIPS, **SMALL})
    said = run(
        *("vt-init", "--t5", folder / "t5", "--arch", "from-t5", "--video-network"),
        *("videomae:pooling=attention,tokens=6,frames_per_second=8", "--video"),
        *(folder / "videomae", "--out", folder / "init.pt"),
    )
    return folder / "init.pt", said, folder / "videomae"


def test_vt_init_loads_what_the_network_loads_and_says_what_is_new(initial):
    checkpoint, said, folder = initial
    state = torch.load(checkpoint, weights_only=True)
    original = transformers.VideoMAEModel.from_pretrained(folder).state_dict()
    ours = {
        name.removeprefix("encoder.video.network.model."): tensor
        for name, tensor in state["model"].items()
        if name.startswith("encoder.video.network.model.")
    }
    assert ours.keys() == original.keys()
    assert all(torch.equal(ours[name], original[name]) for name in ours)
    numbers = sum(tensor.numel() for tensor in original.values())
    assert f"loaded     {len(original)} tensors of video, {numbers:,} numbers" in said
    new = state["pretrained"]["new"]
    assert "encoder.video.network.pool.queries" in new and not any(".model." in n for n in new)
    (source,) = (s for s in state["pretrained"]["sources"] if s["part"] == "video")
    assert source["file"] == "model.safetensors"
    assert "num_hidden_layers=2" in state["cfg"]["model"]["video_network"]
    task = state["cfg"]["task"]
    assert (task["num_frames"], task["frame_size"]) == (4, 32)
    assert (task["frame_sampling"], task["frames_per_second"]) == ("consecutive", 8.0)


def test_vt_memory_needs_no_weights(initial):
    network = torch.load(initial[0], weights_only=True)["cfg"]["model"]["video_network"]
    said = run("vt-memory", "--arch", "video_translate_tiny", "--video-network", network, "--json")
    assert json.loads(said)["gpu_gib"]["activations"] > 0
    assert math.isfinite(json.loads(said)["gpu_gib"]["total"])


def test_advice_for_memory_is_what_the_network_can_do(initial):
    network = torch.load(initial[0], weights_only=True)["cfg"]["model"]["video_network"]
    run = Run(TinyConfig(video_network=network), BatchShape(), Setup())
    assert next(suggestions(run))[0] == "--checkpoint-activations"
    assert next(suggestions(replace(run, config=TinyConfig())))[0].startswith("--checkpoint-video")


def test_a_checkpoint_whose_network_is_larger_than_the_file_is_refused(initial, tmp_path):
    state = torch.load(initial[0], weights_only=True)
    network = state["cfg"]["model"]["video_network"]
    larger = network.replace("intermediate_size=64", "intermediate_size=65536")
    assert larger != network
    state["cfg"]["model"]["video_network"] = larger
    torch.save(state, tmp_path / "large.pt")
    with pytest.raises(UserError, match=r"videomae:.* numbers, the file [\d,]+$"):
        read_checkpoint(tmp_path / "large.pt")


def test_a_network_of_ones_own_in_a_checkpoint_is_named_with_the_option_that_registers_it():
    """Also with arguments, where its size is looked at before a model is made."""
    tensors = {str(number): torch.zeros(1_000_000) for number in range(8)}
    options = {"t5_size": "tiny", "video_network": "mine:layers=2"}
    expected = r"^a\.pt: cfg\.model: --video-network mine: expected one of tiny.* --user-dir names"
    with pytest.raises(UserError, match=expected):
        check_sizes(options, tensors, 384, "a.pt")
