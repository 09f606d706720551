"""Networks keep the contract of models/output.py; a new line in MODELS is tested without a new test."""

import re
import subprocess
import sys
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models
from models.config import (
    NetworkConfig,
    SmpNetwork,
    UNetNetwork,
    UNetTeacher,
    names_for,
    network_config,
)
from models.costs import costs
from models.counting import Flops

ROOT = Path(__file__).resolve().parents[2]
ENCODER = "tu-mobilenetv3_small_050"
WIDE = (
    "unet",
    "unet-awesome",
    "unet-selfreg",
    "unet-selfreg-transposed",
    "attention-unet",
    "unetplusplus",
    "unetplusplus-awesome",
    "multiresunet",
    "multiresunet-awesome",
    "resunet",
    "resunet-awesome",
    "resunetplusplus",
    "resunetplusplus-author",
    "ducknet",
    "small-double",
    "small-tail-attention",
    "small-tail-wide",
    "small-tail-residual",
    "small-skips",
)
SMALL = {
    **{name: network_config(name, width=3) for name in WIDE},
    "unetplusplus": network_config("unetplusplus", width=3, deep_supervision=True),
    "smp-unet": SmpNetwork(name="smp-unet", encoder=ENCODER),
    "smp-deeplabv3plus": SmpNetwork(name="smp-deeplabv3plus", encoder=ENCODER),
    "transunet": network_config("transunet", width=8, layers=1, units=(1, 1, 1)),
    "uctransnet": network_config("uctransnet", width=4, layers=1),
    "missformer": network_config("missformer", width=8, depths=(1, 1, 1, 1), bridges=1),
    "swin-unet": network_config("swin-unet", width=12),
    "hiformer-s": network_config("hiformer-s", width=12, depths=(1, 1, 1), encoder="resnet18"),
    "cascade-pvt": network_config("cascade-pvt", encoder="pvt_v2_b0"),
    "cascade-transunet": network_config("cascade-transunet", width=8, layers=1, units=(1, 1, 1)),
}
SIDE = 64
ELSEWHERE = frozenset(models.MODELS) - SMALL.keys()
"""Sizes that a name fixes, and further networks of other packages; other files build them without memory."""
ON_TIMM = ("smp-", "transunet", "swin-unet", "hiformer-", "cascade-")
"""How the names of networks begin that need the smp extra."""
needs_smp = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed"
)


def names():
    return [pytest.param(name, marks=needs_smp if name.startswith(ON_TIMM) else ()) for name in SMALL]


@pytest.fixture(params=names())
def config(request):
    return SMALL[request.param]


def seeded(config, in_channels=3, classes=2):
    torch.manual_seed(0)
    return models.build(config, in_channels=in_channels, classes=classes, size=SIDE)


def on_meta(config, in_channels=3, classes=2, size=SIDE):
    with torch.device("meta"):
        return models.build(config, in_channels=in_channels, classes=classes, size=size)


def only_side(network):
    """The side of the images of a network that is built for one; None where any multiples of its stride work."""
    return getattr(network, "side", None)


def test_the_table_and_the_configuration_name_the_same_networks():
    union = get_args(get_args(NetworkConfig)[0])
    assert {n for kind in union for n in get_args(kind.model_fields["name"].annotation)} == set(models.MODELS)
    others = {"ducknet-17", "ducknet-34", "deeplabv3", "hiformer-b", "hiformer-l"}
    assert {n for n in ELSEWHERE if n in names_for(2) and not n.startswith("smp-")} == others


def test_importing_the_tables_imports_no_torch(repository):
    code = "import sys, models, losses, models.config, losses.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, check=False).returncode == 0


def suffixed(name):
    return name.partition(".")[0]


def test_forward_gives_logits_at_input_size_and_the_promised_taps(config):
    """Channels as promised, in the promised order, and level k at 1 / 2^(k-1) of the input."""
    network = seeded(config, in_channels=4, classes=5)
    width = only_side(network) or 96
    output = network(torch.rand(2, 4, 64, width))
    assert output.logits.shape == (2, 5, 64, width)
    assert [head.shape for head in output.heads] == [output.logits.shape] * network.deep_heads
    assert list(output.taps) == list(network.taps)
    for name, tap in output.taps.items():
        assert tap.shape[:2] == (2, network.taps[name].channels)
        assert tap.shape[2:] == (64 // network.taps[name].stride, width // network.taps[name].stride), name
        if suffixed(name) != "mid":
            assert network.taps[name].stride == 2 ** (int(suffixed(name).lstrip("encdgat")) - 1), name
    assert output.taps["mid"].shape[2] == min(tap.shape[2] for tap in output.taps.values())
    places = [name[:3] for name in output.taps if not name.startswith("gate")]
    assert places == sorted(places, key=["enc", "mid", "dec"].index)


DEAD: dict[str, tuple[str, str]] = {
    "missformer": (
        r".*mlps?\.(\d\.)?norm[23]\.|decoders\.0\.",
        "the reference builds two norms more a feed-forward network than it uses, and decoder blocks where nothing is "
        "joined; both count in its published size",
    ),
    "cascade-pvt": (r"gray\.", "makes three channels of one; other images pass by it"),
    "cascade-transunet": (r"gray\.", "makes three channels of one; other images pass by it"),
}
"""Name -> a pattern of its parameters that no gradient reaches, and why."""


def everything(output):
    """All that an output has, as one number."""
    return sum(x.square().sum() for x in (output.logits, *output.heads))


def test_backward_reaches_every_parameter_that_is_not_listed_as_dead(config):
    network = seeded(config)
    everything(network(torch.rand(2, 3, 64, 64))).backward()
    pattern = DEAD.get(config.name, ("(?!)",))[0]
    assert [name for name, p in network.named_parameters() if (p.grad is None) != bool(re.match(pattern, name))] == []
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_inference_has_no_heads_and_one_image_is_scored_as_among_others(config):
    network = seeded(config)
    images = torch.rand(3, 3, 64, 64)
    network(images)
    network.eval()
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image.unsqueeze(0)).logits for image in images])
    assert together.heads == ()
    assert (together.logits - alone).abs().max() <= 1e-5 * max(1.0, float(alone.abs().max()))


def test_weights_that_are_saved_and_loaded_give_the_same_logits(config, tmp_path):
    network, other = seeded(config), models.build(config, in_channels=3, classes=2, size=SIDE)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / "weights")
    other.load_state_dict(load_file(tmp_path / "weights"))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(network.eval()(images).logits, other.eval()(images).logits)


def test_narrow_networks_have_no_strided_1x1_convolution():
    """Some processors' kernels for it corrupt memory where it has fewer than 16 input channels (oneDNN issue 6035)."""
    for name in WIDE:
        found = [m for m in on_meta(SMALL[name]).modules() if isinstance(m, torch.nn.Conv2d)]
        assert not [m for m in found if m.kernel_size == (1, 1) and m.stride != (1, 1)], name


def test_on_meta_a_network_has_the_same_parameters_without_memory(config):
    network, real = on_meta(config), seeded(config)
    assert {p.device.type for p in network.parameters()} == {"meta"}
    assert [(n, p.shape) for n, p in network.named_parameters()] == [(n, p.shape) for n, p in real.named_parameters()]
    assert network.eval()(torch.empty(1, 3, 64, 64, device="meta")).logits.shape == (1, 2, 64, 64)


def test_weights_come_from_torchs_global_generator_alone(config):
    first, again = seeded(config).state_dict(), seeded(config).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    state = torch.get_rng_state()
    on_meta(config)
    assert torch.equal(torch.get_rng_state(), state)


def test_sizes_are_multiples_of_the_stride(config):
    """Where any size works the logits have it; else a wrong one is named in one line."""
    network = seeded(config).eval()
    images = torch.rand(1, 3, 66, 47)
    if network.stride == 1:
        assert network(images).logits.shape[2:] == (66, 47)
    elif only_side(network) is not None:
        with pytest.raises(ValueError, match=r"^data\.size: .* built for images of 64 x 64, got 66 x 47"):
            network(images)
        with pytest.raises(ValueError, match=rf"^data\.size = 66: .* multiples of {network.stride}; choose 64 or \d+$"):
            models.build(config, in_channels=3, classes=2, size=66)
    else:
        with pytest.raises(ValueError, match=rf"^data\.size: .* multiples of {network.stride}, got images of 66 x 47"):
            network(images)
        size = 2 * network.stride
        assert network(torch.rand(1, 3, size, size)).logits.shape[2:] == (size, size)


@pytest.mark.parametrize(
    ("name", "options", "channels", "classes", "count"),
    [
        ("unet", {}, 3, 2, 8_634_432),
        ("unet-awesome", {}, 3, 2, 1_946_914),
        ("unet-awesome", {}, 4, 2, 1_947_202),
        ("unet-selfreg", {}, 1, 9, 17_262_345),
        ("unet-selfreg-transposed", {}, 1, 9, 31_037_001),
        ("attention-unet", {}, 3, 2, 34_878_638),
        ("attention-unet", {}, 4, 2, 34_879_214),
        ("unetplusplus", {}, 3, 2, 8_534_624),
        ("unetplusplus", {"deep_supervision": True}, 3, 2, 8_534_816),
        ("unetplusplus-awesome", {}, 3, 2, 9_163_362),
        ("unetplusplus-awesome", {"deep_supervision": True}, 3, 2, 9_163_560),
        ("multiresunet", {}, 3, 2, 7_251_376),
        ("multiresunet", {}, 3, 3, 7_251_430),
        ("multiresunet-awesome", {}, 3, 2, 7_821_028),
        ("resunet", {}, 3, 2, 2_055_936),
        ("resunet", {"width": 64}, 3, 2, 8_216_064),
        ("resunet-awesome", {}, 3, 2, 13_043_074),
        ("resunet-awesome", {}, 4, 2, 13_044_226),
        ("resunetplusplus", {}, 3, 2, 3_926_894),
        # The reference is counted for one class, 4,062,993: a class less in a head of 16 channels and a bias.
        ("resunetplusplus-author", {}, 3, 2, 4_062_993 + 17),
        ("ducknet-17", {}, 3, 2, 40_101_544),
        ("ducknet-34", {}, 3, 2, 160_284_404),
        ("small-double", {}, 3, 2, 136_434),
        ("small-double", {}, 4, 2, 136_434 + 288),
        ("small-tail-attention", {}, 3, 2, 29_154),
        ("small-tail-wide", {}, 3, 2, 56_834),
        ("small-tail-residual", {}, 3, 2, 27_874),
        ("small-skips", {}, 3, 2, 466_562),
        ("small-skips", {}, 4, 2, 466_562 + 288),
        # The reference is counted for one class: 58,625,857, and with the auxiliary head 60,985,922; 257 a class each.
        pytest.param("deeplabv3", {}, 3, 2, 58_625_857 + 257, marks=needs_smp),
        pytest.param("deeplabv3", {"deep_supervision": True}, 3, 2, 60_985_922 + 2 * 257, marks=needs_smp),
        pytest.param("deeplabv3", {"deep_supervision": True}, 3, 21, 60_996_202, marks=needs_smp),
        pytest.param("smp-unet", {"encoder": "resnet18"}, 3, 2, 14_328_354, marks=needs_smp),
        pytest.param("smp-unet", {"encoder": "resnet101"}, 3, 2, 51_513_378, marks=needs_smp),
        pytest.param("smp-deeplabv3plus", {"encoder": "resnet101"}, 3, 2, 45_669_970, marks=needs_smp),
    ],
)
def test_parameters_equal_the_reference_to_the_digit(name, options, channels, classes, count):
    """Counted from the reference implementations; a student and a teacher of one name are one network."""
    assert models.parameters(on_meta(network_config(name, **options), channels, classes)) == count


@pytest.mark.parametrize("width", [1, 5, 12])
@pytest.mark.parametrize("name", ["unet", "resunet", "unetplusplus-awesome", "attention-unet"])
def test_plain_networks_take_any_width(name, width):
    network = seeded(network_config(name, width=width), in_channels=1)
    assert network.taps["enc1"] == network.taps["dec1"] == (width, 1)
    assert network(torch.rand(2, 1, 16, 16)).logits.isfinite().all()


def test_flops_of_a_unet_are_twice_its_multiply_adds():
    """By hand: a 3 x 3 convolution takes 9 c_in c_out multiply-adds a pixel, a transposed one of its input."""
    width, size = 4, 64
    wide = [width * 2**k for k in range(5)]
    pixels = [(size >> k) ** 2 for k in range(5)]
    adds = 9 * sum(p * (a * b + b * b) for p, a, b in zip(pixels, [3, *wide], wide, strict=False))
    for k in range(4):
        adds += pixels[k + 1] * 9 * wide[k + 1] * wide[k] + pixels[k] * 9 * (2 * wide[k] * wide[k] + wide[k] ** 2)
    adds += pixels[0] * width * 2
    config = UNetNetwork(name="unet", width=width)
    assert models.flops(config, in_channels=3, classes=2, size=size) == 2 * adds


@pytest.mark.parametrize("config", [SMALL[n] for n in ("unet", "resunet", "resunetplusplus", "multiresunet")])
def test_flops_are_those_of_torch_and_building_for_them_draws_nothing(config):
    state = torch.get_rng_state()
    count = models.flops(config, in_channels=3, classes=2, size=64)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        models.build(config, in_channels=3, classes=2, size=64).eval()(torch.empty(1, 3, 64, 64))
    assert count == counter.get_total_flops() > 0
    assert models.flops(config, in_channels=3, classes=2, size=128) > 3 * count
    assert torch.equal(torch.get_rng_state(), state)


def test_counting_a_unet_loads_neither_torchs_compiler_nor_sympy():
    """They take a second of each process that loads them; every worker and `validate` count operations."""
    code = (
        "import sys, models; from models.config import UNetNetwork\n"
        "unet = UNetNetwork(name='unet', width=4)\n"
        "for count in (models.flops, models.live_parameters):\n"
        "    count(unet, in_channels=3, classes=2, size=32)\n"
        "sys.exit(any(name in sys.modules for name in ('torch._dynamo', 'sympy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(
    ("operation", "shape"),
    [
        (nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), (2, 3, 9, 7)),
        (nn.Conv2d(4, 8, (1, 5), padding=(0, 4), dilation=2, groups=2), (1, 4, 6, 11)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 4, 5, 6)),
        (nn.BatchNorm2d(5), (2, 5, 4, 3)),
        (nn.MaxPool2d(3, 2, 1), (2, 5, 8, 7)),
        (nn.MaxPool2d(2, ceil_mode=True), (2, 5, 7, 7)),
        (nn.Conv3d(2, 4, 3, stride=(1, 2, 2), padding=1), (1, 2, 5, 6, 7)),
        (nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 3, 4, 5)),
        (nn.Conv1d(2, 4, 3, padding=2), (2, 2, 9)),
    ],
    ids=str,
)
def test_what_counting_takes_for_a_result_is_laid_out_as_torch_has_it(operation, shape, last):
    order = {4: torch.channels_last, 5: torch.channels_last_3d}.get(len(shape)) if last else None
    images, operation = torch.empty(shape, device="meta"), deepcopy(operation).to("meta")
    if order is not None:
        images, operation = images.to(memory_format=order), operation.to(memory_format=order)
    real = operation(images)
    with Flops() as counted:
        made = operation(images)
    assert (made.shape, made.stride(), made.dtype) == (real.shape, real.stride(), real.dtype)
    with FlopCounterMode(display=False) as counter:
        operation(images)
    assert counted.total == counter.get_total_flops()


def test_counting_leaves_a_picture_that_is_no_batch_to_torch():
    with torch.device("meta"), Flops():
        assert nn.MaxPool2d(2)(torch.empty(3, 8, 6)).shape == (3, 4, 3)
        assert nn.Conv2d(3, 4, 3)(torch.empty(3, 8, 6)).shape == (4, 6, 4)


def test_counting_refuses_what_torch_refuses_in_its_words():
    for operation, image in ((nn.Conv2d(3, 4, 3), (1, 5, 8, 8)), (nn.Conv2d(3, 4, 5), (1, 3, 4, 4))):
        with torch.device("meta"), pytest.raises(RuntimeError) as refused:
            operation.to("meta")(torch.empty(image))
        with torch.device("meta"), Flops(), pytest.raises(RuntimeError, match=re.escape(str(refused.value))):
            operation(torch.empty(image))


@pytest.mark.parametrize("config", [SMALL[n] for n in ("unet", "unetplusplus", "missformer")])
def test_parameters_in_use_are_those_that_gradients_reach(config):
    """Two ways to count: what operations of a pass are given, and what a backward pass finds."""
    known = costs(config, in_channels=3, classes=2, sizes=[SIDE])
    assert known.dead > 0 or config.name != "missformer"
    live = models.live_parameters(config, in_channels=3, classes=2, size=SIDE)
    assert live == models.parameters(known.network) - known.dead


@pytest.mark.parametrize(("channels", "classes"), [(0, 2), (3, 1)])
def test_too_few_channels_or_classes_are_refused(channels, classes):
    with pytest.raises(ValueError, match=f"^teacher: needs .* got {channels} and {classes}$"):
        models.build(UNetTeacher(name="unet"), in_channels=channels, classes=classes)
