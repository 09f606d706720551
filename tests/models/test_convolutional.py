"""What papers and reference code say of the convolutional networks, beyond their number of parameters."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

import models
from models.config import network_config


def tiny(name, *, channels=3, width=4, **options):
    torch.manual_seed(0)
    return models.build(network_config(name, width=width, **options), in_channels=channels, classes=2)


def count(network, kind):
    return sum(isinstance(module, kind) for module in network.modules())


def channels(network):
    return {name: tap.channels for name, tap in network.taps.items()}


def test_the_three_forms_of_unet_have_the_layers_of_their_code():
    ours, awesome, selfreg, transposed = map(tiny, ("unet", "unet-awesome", "unet-selfreg", "unet-selfreg-transposed"))
    assert [net.stride for net in (ours, awesome, selfreg, transposed)] == [16, 8, 16, 16]
    assert count(awesome, nn.BatchNorm2d) == count(awesome, nn.ConvTranspose2d) == 0
    assert all(m.bias is not None for m in awesome.modules() if isinstance(m, nn.Conv2d))
    assert (count(ours, nn.ConvTranspose2d), count(selfreg, nn.ConvTranspose2d)) == (4, 0)
    assert {m.kernel_size for m in transposed.modules() if isinstance(m, nn.ConvTranspose2d)} == {(2, 2)}
    assert [channels(selfreg)[tap] for tap in ("enc4", "mid", "dec4", "dec3", "dec2", "dec1")] == [32, 32, 16, 8, 4, 4]
    assert [channels(transposed)[tap] for tap in ("enc4", "mid", "dec4", "dec1")] == [32, 64, 32, 4]


@pytest.mark.parametrize(
    ("up", "comb"),
    [("transposed", True), ("transposed-2x2", False), ("transposed-4x4", False), ("bilinear", False)],
)
def test_only_the_3x3_transposed_convolution_reaches_some_pixels_more_often_than_others(up, comb):
    """Equal weights on an equal map: away from the border the result is flat, or it is a comb."""
    step = tiny("unet", up=up).ups[0]
    inner = step if isinstance(step, nn.ConvTranspose2d) else nn.Sequential(*list(step)[:-2])
    with torch.no_grad():
        for weight in inner.parameters():
            weight.fill_(1.0)
        x = next(m for m in inner.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)).in_channels
        middle = inner(torch.ones(1, x, 8, 8))[0, 0, 4:12, 4:12]
    assert bool((middle != middle[0, 0]).any()) is comb


@pytest.mark.parametrize("up", ["transposed-2x2", "transposed-4x4", "bilinear", "interpolated"])
@pytest.mark.parametrize("name", ["unet"])
def test_every_way_up_gives_logits_of_the_images_size(name, up):
    network = tiny(name, up=up)
    assert network(torch.rand(2, 3, 32, 48)).logits.shape == (2, 2, 32, 48)


def test_a_gate_of_attention_unet_lies_between_0_and_1_and_shuts_its_skip():
    """Oktay et al. 2018, equation 1: the skip is multiplied by a coefficient for each pixel."""
    network = tiny("attention-unet").eval()
    images = torch.rand(1, 3, 32, 32)
    taps = network(images).taps
    assert [name for name in taps if name.startswith("gate")] == ["gate4", "gate3", "gate2", "gate1"]
    assert all(0 <= taps[f"gate{k}"].min() <= taps[f"gate{k}"].max() <= 1 for k in range(1, 5))
    joined = []
    network.decoders[-1].register_forward_pre_hook(lambda module, given: joined.append(given[0]))
    with torch.no_grad():
        network.gates[-1].share[1].bias.fill_(-1e4)
        network(images)
    assert joined[0][:, :4].abs().max() == 0.0  # the skip
    assert joined[0][:, 4:].abs().max() > 0.0  # what came up


def test_a_node_of_unetplusplus_sees_all_before_it_on_its_level_and_the_one_below():
    """Zhou et al. 2018, equation 1: X(i, j) reads j maps of its level and one from below."""
    for name, wide in (("unetplusplus", 4 * (1 + 1)), ("unetplusplus-awesome", 4 * (1 + 2))):
        nodes = tiny(name).nodes
        assert set(nodes) == {f"{i}-{j}" for j in range(1, 5) for i in range(5 - j)}
        assert nodes["0-1"][0][0].in_channels == wide
    assert nodes["0-4"][0][0].in_channels == 4 * 4 + 8
    thin = channels(tiny("unetplusplus"))
    assert [thin[f"dec{level}"] for level in (4, 3, 2, 1)] == [16, 8, 4, 4]
    assert [channels(tiny("unetplusplus-awesome"))[f"dec{level}"] for level in (4, 3, 2, 1)] == [32, 16, 8, 4]


def test_heads_of_unetplusplus_are_those_of_its_first_level_and_only_for_training():
    network = tiny("unetplusplus", deep_supervision=True)
    output = network(torch.rand(2, 3, 32, 32))
    assert len(output.heads) == network.deep_heads == 3
    expected = [head(output.taps[f"dec1.{j}"]) for j, head in enumerate(network.heads, start=1)]
    assert all(torch.equal(a, b) for a, b in zip(output.heads, expected, strict=True))
    assert tiny("unetplusplus")(torch.rand(2, 3, 32, 32)).heads == ()


def test_a_multires_block_splits_its_filters_and_respaths_are_4_to_1_long():
    """Ibtehaz and Rahman 2020: 1.67 x 32 filters become 8, 17 and 26; paths of 4, 3, 2, 1 steps."""
    with torch.device("meta"):
        author, awesome = (
            models.build(network_config(name), in_channels=3, classes=2)
            for name in ("multiresunet", "multiresunet-awesome")
        )
    assert [conv[0].out_channels for conv in author.encoders[0].chain] == [8, 17, 26]
    assert [len(path.steps) for path in author.paths] == [4, 3, 2, 1]
    assert [len(path.steps) for path in awesome.paths] == [2, 2, 2, 2]
    assert [path.repeats for path in awesome.paths] == [4, 3, 2, 1]
    assert not any(m.affine for m in awesome.modules() if isinstance(m, nn.BatchNorm2d))
    assert isinstance(author.head[-1], nn.BatchNorm2d)


def test_the_shared_step_of_a_respath_is_applied_as_often_as_the_path_is_long():
    network, calls = tiny("multiresunet-awesome"), []
    for path in network.paths:
        path.steps[1].register_forward_hook(lambda module, *_, calls=calls: calls.append(module))
    network(torch.rand(2, 3, 16, 16))
    assert [calls.count(path.steps[1]) for path in network.paths] == [4, 3, 2, 1]


def test_resunet_awesome_normalises_before_it_convolves_and_ours_behind():
    """Zhang et al. 2018, equation 3: full pre-activation."""
    awesome, ours = tiny("resunet-awesome"), tiny("resunet")
    assert [type(m) for m in awesome.encoders[1].branch] == [nn.BatchNorm2d, nn.ReLU, nn.Conv2d] * 2
    assert [type(m) for m in ours.encoders[1].branch[0]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert awesome.encoders[1].shortcut[0].kernel_size == (3, 3)
    assert ours.encoders[1].shortcut.kernel_size == (1, 1)


def test_the_gradient_of_resunet_keeps_the_bits_that_it_always_had(monkeypatch):
    """Scores of runs are repeated bit for bit. What a map's gradient is summed from comes in the reverse order of the
    forward pass, where the shortcut's pixels are taken before the branch is computed."""

    def block(module, x):
        seen = x if module.stride == 1 else x[..., :: module.stride, :: module.stride]
        return module.branch(x) + module.shortcut(seen)

    def gradients():
        network = tiny("resunet", width=6)
        network(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))).logits.square().sum().backward()
        return [parameter.grad for parameter in network.parameters()]

    ours = gradients()
    monkeypatch.setattr("models.resunet._Residual.forward", block)
    assert all(torch.equal(a, b) for a, b in zip(ours, gradients(), strict=True))


def test_resunetplusplus_halves_in_its_first_block_and_multiplies_the_decoders_map():
    network = tiny("resunetplusplus").eval()
    taps = network(torch.rand(1, 3, 32, 32)).taps
    assert list(taps)[:5] == ["enc2", "enc3", "enc4", "enc5.block", "mid"]
    assert taps["gate5"].shape == (1, 1, 2, 2)
    assert all(0 <= taps[f"gate{k}"].min() <= taps[f"gate{k}"].max() <= 1 for k in (5, 4, 3))
    assert [m.dilation[0] for m in network.bridge.modules() if isinstance(m, nn.Conv2d)][:4] == [1, 6, 12, 18]
    wide = tiny("resunetplusplus", width=16)
    assert [tuple(m.weight.shape) for m in wide.excitations[2].weigh if isinstance(m, nn.Linear)] == [(4, 64), (64, 4)]


def test_the_authors_resunetplusplus_keeps_full_resolution_and_sums_its_pyramid():
    network = tiny("resunetplusplus-author", width=16)
    assert (network.taps["enc1"].stride, network.taps["mid"].channels) == (1, 256)
    assert network.bridge.fuse.in_channels == network.bridge.branches[0][0].out_channels
    assert [m.bias is None for m in network.encoders[0].weigh if isinstance(m, nn.Linear)] == [True, True]


def test_ducknet_sums_six_branches_adds_its_skips_and_sends_the_image_down_by_itself():
    """Dumitru et al. 2023, figures 1 and 2."""
    network = tiny("ducknet").eval()
    assert {len(block.branches) for block in (*network.encoders, *network.decoders)} == {6}
    skips = [channels(network)[f"enc{k}"] for k in range(5, 0, -1)]
    assert [block.before[0].num_features for block in network.decoders] == skips
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        for down in network.downs:
            down[1].weight.zero_()
        first = network(images).taps["enc2"]
        network.encoders[0].after[0].weight.zero_()
        assert torch.equal(network(images).taps["enc2"], first)
    assert [m.kernel_size for m in network.encoders[0].branches[5].modules() if isinstance(m, nn.Conv2d)] == [
        (1, 7),
        (7, 1),
    ]


def test_small_students_normalise_nothing_and_tails_end_in_the_logits():
    shapes = ("double", "tail-attention", "tail-wide", "tail-residual", "skips")
    networks = {shape: tiny(f"small-{shape}") for shape in shapes}
    assert {count(network, nn.BatchNorm2d) for network in networks.values()} == {0}
    assert [networks[shape].stride for shape in shapes] == [4, 2, 2, 4, 4]
    for shape in shapes[1:4]:
        assert isinstance(networks[shape].body.head, nn.ConvTranspose2d)
        assert networks[shape].body.head.out_channels == 2


@pytest.mark.skipif(find_spec("torchvision") is None, reason="the smp extra is not installed")
def test_deeplabv3_stays_at_an_eighth_and_has_one_auxiliary_head():
    """Chen et al. 2017: output stride 8 with rates 12, 24, 36; the auxiliary head reads the third stage."""
    config = network_config("deeplabv3", backbone="resnet50", deep_supervision=True)
    with torch.device("meta"):
        network = models.build(config, in_channels=4, classes=3)
        images = torch.empty(2, 4, 65, 97)
        output, alone = network(images), network.eval()(images)
    assert output.logits.shape == output.heads[0].shape == (2, 3, 65, 97)
    assert alone.heads == ()
    assert {name: tap.stride for name, tap in network.taps.items()} == {
        "enc2": 2,
        "enc3": 4,
        "enc4": 8,
        "enc4.dilated": 8,
        "mid": 8,
        "dec4": 8,
    }
    for name, tap in network.taps.items():
        assert output.taps[name].shape[:2] == (2, tap.channels)
    rates = {m.dilation[0] for m in network.decoder.modules() if isinstance(m, nn.Conv2d)}
    assert rates == {1, 12, 24, 36}


@pytest.mark.skipif(find_spec("torchvision") is None, reason="the smp extra is not installed")
def test_deeplabv3s_weights_are_for_three_channels_and_not_fetched_for_a_checkpoint():
    with torch.device("meta"):
        with pytest.raises(ValueError, match=r"^student\.weights = 'imagenet': are for 3 channels, the data has 1"):
            models.build(network_config("deeplabv3", weights="imagenet"), in_channels=1, classes=2)
        held = network_config("deeplabv3", weights="imagenet", checkpoint="weights.safetensors")
        assert models.build(held, in_channels=1, classes=2).taps["enc2"].channels == 64
