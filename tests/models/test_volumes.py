"""Networks for volumes: counts of the published configurations, taps, what papers say, and the whole way of a patch."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import models
from models.config import names_for, network_config
from models.costs import costs
from models.espnetv2 import averaged

SMALL = {
    "unet": {"width": 2},
    "residual-unet-3d": {"width": 4},
    "tiny-unet-3d": {"width": 4},
    "segresnet": {"width": 8},
    "espnetv2-3d": {"width": 16},
    "mobile-unet-3d": {"width": 2},
    "lcovnet": {"width": 2},
}
PUBLISHED = {
    # 1 channel and 14 classes (BTCV), 1 and 17 (WORD), 4 and 3 (BraTS); then parameters of the first that nothing uses
    "residual-unet-3d": (18_992_149, 19_005_034, 18_959_430, 0),
    "tiny-unet-3d": (1_961_012, 1_966_199, 1_944_585, 0),
    "segresnet": (4_701_118, 4_701_169, 4_702_227, 0),
    "espnetv2-3d": (284_438, 286_187, 279_262, 224),
    "mobile-unet-3d": (13_883_132, 13_883_183, 13_883_131, 230_208),
    "lcovnet": (815_984, 816_704, 813_488, 3_136),
}
"""Counted from the reference implementations at their own widths."""
DEAD = {
    "espnetv2-3d": r"downs\.\d\.unit\.activation\.",
    "mobile-unet-3d": r"(stages\.[1235]\.\d|stages\.4\.[12]|ups\.\d)\.shortcut\.",
    "lcovnet": r"heads\.[123]\.",
}


def small(name, *, channels=2, classes=3, **options):
    torch.manual_seed(0)
    config = network_config(name, **SMALL[name], **options)
    return models.build(config, in_channels=channels, classes=classes, dims=3)


def on_meta(name, channels=1, classes=14, **options):
    with torch.device("meta"):
        return models.build(network_config(name, **options), in_channels=channels, classes=classes, dims=3)


def count(network, kind):
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize(("name", "counts"), PUBLISHED.items())
def test_parameters_equal_the_reference_to_the_digit(name, counts):
    given = [models.parameters(on_meta(name, *each)) for each in ((1, 14), (1, 17), (4, 3))]
    assert (*given, costs(network_config(name), in_channels=1, classes=14, sizes=[32], dims=3).dead) == counts
    live = models.live_parameters(network_config(name), in_channels=1, classes=14, size=32, dims=3)
    assert live == counts[0] - counts[3]


def test_a_unet_of_volumes_has_the_layers_of_that_of_images_with_one_side_more_to_each_kernel():
    for name, up in (("unet", "transposed"), ("unet", "bilinear"), ("unet-selfreg", "interpolated")):
        with torch.device("meta"):
            flat = models.build(network_config(name, width=4, up=up), in_channels=1, classes=3)
        deep = on_meta(name, 1, 3, width=4, up=up)
        assert deep.taps == flat.taps
        assert [(key, tuple(p.shape[:4]) if p.ndim == 5 else p.shape) for key, p in deep.named_parameters()] == [
            (key, p.shape) for key, p in flat.named_parameters()
        ]


@pytest.mark.parametrize("name", SMALL)
def test_taps_are_as_promised_and_level_k_lies_at_one_over_2_to_the_k_minus_1(name):
    network = on_meta(name, 2, 5, **SMALL[name])
    shape = (64, 32, 96)
    output = network(torch.empty(2, 2, *shape, device="meta"))
    assert output.logits.shape == (2, 5, *shape)
    assert list(output.taps) == list(network.taps)
    for tap, x in output.taps.items():
        channels, stride = network.taps[tap]
        assert x.shape == (2, channels, *(side // stride for side in shape)), tap
        if tap != "mid":
            assert stride == 2 ** (int(tap.partition(".")[0][3:]) - 1), tap
    assert network.taps["mid"].stride == network.stride == max(tap.stride for tap in network.taps.values())


@pytest.mark.parametrize("name", SMALL)
def test_a_step_reaches_every_parameter_in_use_and_inference_neither_other_patches_nor_a_file(name, tmp_path):
    network = small(name)
    images = torch.rand(2, 2, 32, 32, 32)
    output = network(images)
    output.logits.square().sum().backward()
    dead = DEAD.get(name, "(?!)")
    assert [key for key, p in network.named_parameters() if (p.grad is None) != bool(re.match(dead, key))] == []
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / "weights")
    other = small(name)
    other.load_state_dict(load_file(tmp_path / "weights"))
    with torch.no_grad():
        together, alone = network.eval()(images).logits, other.eval()(images[1:]).logits
    torch.testing.assert_close(alone, together[1:], rtol=1e-4, atol=1e-5)


def test_a_plain_unet_for_volumes_has_the_size_of_monais():
    assert models.parameters(on_meta("tiny-unet-3d", 1, 2, width=16)) == 486_296
    assert models.parameters(on_meta("tiny-unet-3d", 1, 2)) == 1_940_264


def test_the_residual_unet_halves_the_size_in_its_first_stage_and_ends_in_logits():
    """Kerfoot et al. 2018: residual units of two convolutions down, of one up; instance normalisation and PReLU."""
    network, tiny = on_meta("residual-unet-3d"), on_meta("tiny-unet-3d")
    assert [(tap, *network.taps[tap]) for tap in ("enc2", "mid", "dec2", "dec2.joined")] == [
        *(("enc2", 64, 2), ("mid", 512, 8), ("dec2", 64, 2), ("dec2.joined", 128, 2))
    ]
    assert tiny.taps["dec2.joined"] == (64, 2)
    assert (count(network, nn.ConvTranspose3d), count(network, nn.Conv3d), count(network, nn.PReLU)) == (3, 15, 13)
    assert (count(tiny, nn.ConvTranspose3d), count(tiny, nn.Conv3d), count(tiny, nn.PReLU)) == (3, 4, 6)
    assert not any(module.affine for module in network.modules() if isinstance(module, nn.InstanceNorm3d))


def test_the_branch_of_a_residual_unet_is_what_is_added_and_a_tiny_ones_convolution_what_is_normalised():
    network, tiny = small("residual-unet-3d").eval(), small("tiny-unet-3d").eval()
    images, inputs = torch.rand(1, 2, 16, 16, 16), []
    network.ups[1].unit.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    taps = network(images).taps
    assert torch.equal(taps["dec2.residual"] + inputs[0], taps["dec2"])
    assert torch.equal(torch.cat([taps["enc2"], taps["dec2"]], 1), taps["dec2.joined"])
    taps = tiny(images).taps
    _, norm, prelu = tiny.ups[1].wider
    assert torch.equal(prelu(norm(taps["dec2.conv"])), taps["dec2"])


def test_segresnet_has_the_published_blocks_and_adds_nothing_in_place():
    """Myronenko 2018, table 1: blocks 1, 2, 2, 4 down and 1, 1, 1 up, normalisation in groups, skips that are added."""
    network = small("segresnet").eval()
    assert [len(blocks) for blocks in network.encoders] == [1, 2, 2, 4]
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert ({norm.num_groups for norm in norms}, len(norms)) == ({8}, 2 * 12 + 1)
    sums = []
    network.decoders[-1].register_forward_pre_hook(lambda module, given: sums.append(given[0].clone()))
    taps = network(torch.rand(1, 2, 16, 16, 16)).taps
    up = F.interpolate(network.ups[-1](taps["dec2"]), scale_factor=2, mode="trilinear")
    assert torch.equal(up + taps["enc1"], sums[0])
    assert torch.equal(taps["dec1.residual"] + sums[0], taps["dec1"])
    assert not torch.equal(taps["dec1.residual"], taps["dec1"])


def test_espnetv2_has_four_dilated_branches_a_unit_and_the_image_at_every_step_down():
    """Mehta et al. 2019, figures 1 and 2: hierarchical fusion, a long-range shortcut to the image."""
    network = small("espnetv2-3d").eval()
    assert [len(stage) for stage in network.stages] == [0, 3, 7]
    rates = [[branch.dilation[0] for branch in stage[0].branches] for stage in network.stages[1:]]
    assert rates == [[1, 2, 3, 4], [1, 1, 2, 3]]
    unit, fused = network.stages[1][0], []
    unit.merged.register_forward_pre_hook(lambda module, given: fused.append(given[0]))
    x = torch.rand(1, 64, 4, 4, 4)
    unit(x)
    parts = [branch(unit.reduce(x)) for branch in unit.branches]
    torch.testing.assert_close(fused[0], torch.cat([sum(parts[: n + 1]) for n in range(4)], dim=1))
    with torch.no_grad():
        network.stem[1].weight.zero_()  # nothing comes from the stem
        one, other = (network(torch.rand(1, 2, 32, 32, 32)).taps for _ in range(2))
    assert torch.equal(one["enc2"], other["enc2"])
    assert not torch.allclose(one["enc3"], other["enc3"])


def test_a_pyramid_averages_to_any_size_as_adaptive_pooling_does():
    x = torch.rand(2, 3, 2, 6, 48, dtype=torch.float64)
    for size in ((5, 5, 5), (2, 9, 24), (1, 3, 7)):
        torch.testing.assert_close(averaged(x, size), F.adaptive_avg_pool3d(x, size))


def test_mobile_unet_is_mobilenetv2_with_four_bottlenecks_up_whose_skips_are_added():
    """Sandler et al. 2018, table 2; Jing et al. 2022: five deconvolutions, the last of each channel alone."""
    network = small("mobile-unet-3d").eval()
    assert [len(stage) for stage in network.stages] == [1, 2, 3, 4, 3, 3, 1]
    wide = [(step[0].branch[3].out_channels, step[0].branch[3].stride[0]) for step in network.stages]
    assert wide == [(4, 1), (12, 2), (18, 2), (24, 2), (48, 1), (72, 2), (120, 1)]
    ups = [module for module in network.modules() if isinstance(module, nn.ConvTranspose3d)]
    assert {(up.kernel_size, up.stride, up.groups == up.in_channels) for up in ups} == {((4,) * 3, (2,) * 3, True)}
    assert len(ups) == 5
    taps = network(torch.rand(1, 2, 32, 32, 32)).taps
    assert torch.equal(network.ups[3](taps["dec3"]) + taps["enc2"], taps["dec2"])


def test_lcovnet_convolves_through_slices_and_then_within_them_and_calibrates_at_half_the_size():
    """Zhao et al. 2021: separable convolutions and a calibration between 0 and 1 of what the first of them gives."""
    network = small("lcovnet").eval()
    assert {block.through[0].kernel_size for block in network.encoders} == {(1, 1, 3)}
    assert [block.within[0].kernel_size for block in network.decoders] == [(3, 3, 1)] * 4
    assert [block.within[0].groups for block in network.encoders] == [1, 1, 1, 1, 32]
    block, x = network.encoders[0], torch.rand(1, 2, 8, 8, 8)
    first = block.through(x)
    share = (block(x) - block.within(first)) / first
    calibration = F.interpolate(block.calibrate(first), scale_factor=2, mode="trilinear").sigmoid()
    assert block.calibrate(first).shape[2:] == (4, 4, 4)
    torch.testing.assert_close(share[first > 0.1], calibration[first > 0.1], rtol=1e-3, atol=1e-3)


def test_the_coarser_heads_of_lcovnet_train_with_deep_supervision():
    network = small("lcovnet", deep_supervision=True)
    output = network(torch.rand(2, 2, 32, 32, 32))
    assert (
        [head.shape for head in output.heads] == [output.logits.shape] * network.deep_heads == [(2, 3, 32, 32, 32)] * 3
    )
    sum(x.square().sum() for x in (output.logits, *output.heads)).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert models.parameters(network) == models.parameters(small("lcovnet"))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "unet"])
def test_he_draws_convolutions_by_their_outputs_and_nothing_else(name):
    def drawn(**options: object) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        config = network_config(name, **SMALL[name], **options)
        return models.build(config, in_channels=1, classes=3, dims=3).state_dict()

    plain, he = drawn(), drawn(initialisation="he")
    torch.manual_seed(3)
    network = models.build(network_config(name, **SMALL[name]), in_channels=1, classes=3, dims=3)
    layers = {at: each for at, each in network.named_modules() if isinstance(each, nn.Conv3d | nn.ConvTranspose3d)}
    for key, tensor in he.items():
        layer = layers.get(key.rpartition(".")[0])
        if layer is None:
            assert torch.equal(tensor, plain[key])
        elif key.endswith(".bias"):
            assert not tensor.any()
        elif tensor.numel() > 1000:  # torch's fan-out: of a transposed convolution its inputs
            outputs = tensor.shape[0]
            expected = (2 / (outputs * tensor[0, 0].numel())) ** 0.5
            assert tensor.std().item() == pytest.approx(expected, rel=0.08)
    assert layers
    assert all(not torch.equal(he[f"{at}.weight"], plain[f"{at}.weight"]) for at in layers)
    assert "initialisation" not in network_config(name).model_dump()
    assert network_config(name, initialisation="he").model_dump()["initialisation"] == "he"


def test_flops_are_those_of_torch_for_a_patch_of_any_sides():
    config, shape = network_config("tiny-unet-3d", width=4), (16, 32, 48)
    count = models.flops(config, in_channels=1, classes=3, size=shape, dims=3)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        on_meta("tiny-unet-3d", 1, 3, width=4).eval()(torch.empty(1, 1, *shape))
    assert count == counter.get_total_flops() > 0
    assert models.flops(config, in_channels=1, classes=3, size=32, dims=3) * 3 == count * 4


@pytest.mark.parametrize(
    ("name", "dims", "size", "message"),
    [
        (
            "resunet",
            3,
            32,
            "student.name = 'resunet': has no form for 3 axes of space; take one of unet, .*, segresnet, ",
        ),
        ("segresnet", 2, 32, "student.name = 'segresnet': has no form for 2 axes of space; take one of unet, "),
        (
            "segresnet",
            3,
            (96, 44, 96),
            r"data.patch = 96 x 44 x 96: the student segresnet takes multiples of 8; try 96 x ",
        ),
        ("tiny-unet-3d", 3, 8, "data.patch = 8 x 8 x 8: the student tiny-unet-3d makes one voxel of it, .* take 16 "),
        (
            "lcovnet",
            3,
            (32, 32, 16),
            "data.patch = 32 x 32 x 16: the student lcovnet takes 32 along each axis at least$",
        ),
        ("espnetv2-3d", 3, 16, "data.patch = 16 x 16 x 16: the student espnetv2-3d takes 32 along each axis at least$"),
        ("tiny-unet-3d", 3, (96, 96), r"size = \(96, 96\): expected 3 lengths of 1 at least, or one for all$"),
    ],
)
def test_what_a_network_does_not_take_is_refused_in_one_line(name, dims, size, message):
    with torch.device("meta"), pytest.raises(ValueError, match=f"^{message}") as caught:
        models.build(network_config(name), in_channels=1, classes=3, size=size, dims=dims)
    assert "\n" not in str(caught.value)


def test_patches_of_another_size_are_refused_where_they_arrive():
    with pytest.raises(ValueError, match=r"^data\.patch: segresnet takes multiples of 8, got patches of 8 x 12 x 8; "):
        small("segresnet")(torch.rand(1, 2, 8, 12, 8))
    with pytest.raises(ValueError, match=r"^data\.patch: tiny-unet-3d makes one voxel of patches of 8 x 8 x 8, "):
        small("tiny-unet-3d")(torch.rand(1, 2, 8, 8, 8))
    assert small("tiny-unet-3d")(torch.rand(1, 2, 8, 8, 16)).logits.shape == (1, 3, 8, 8, 16)


def test_the_networks_of_each_number_of_axes_are_known_without_building_any():
    volumes = {*SMALL, "unet-awesome", "unet-selfreg", "unet-selfreg-transposed"}
    assert set(names_for(3)) == volumes
    assert set(names_for(2)) | volumes == set(models.MODELS)


def test_weights_lie_with_channels_last_where_that_was_measured_to_be_faster():
    for name, last in (("espnetv2-3d", True), ("segresnet", False)):
        weights = [p for p in small(name).parameters() if p.ndim == 5 and min(p.shape[:2]) > 1]
        assert {p.is_contiguous(memory_format=torch.channels_last_3d) for p in weights if p[0, 0].numel() > 1} <= {last}
