"""Networks for volumes against MONAI's of the same weights, and the sliding window. MONAI takes seconds to import: it
is, once, here."""

import re
import warnings
from importlib.util import find_spec

import pytest
import torch

import models
from models.config import network_config
from trainer.evaluation.sliding_window import SlidingWindow

pytestmark = pytest.mark.skipif(find_spec("monai") is None, reason="MONAI is not installed")

STAGES = (
    (r"^model\.1\.submodule\.1\.submodule\.1\.submodule\.", "bottom."),
    (r"^model\.1\.submodule\.1\.submodule\.0\.", "downs.2."),
    (r"^model\.1\.submodule\.1\.submodule\.2\.", "ups.0."),
    (r"^model\.1\.submodule\.0\.", "downs.1."),
    (r"^model\.1\.submodule\.2\.", "ups.1."),
    (r"^model\.0\.", "downs.0."),
    (r"^model\.2\.", "ups.2."),
)
RESIDUAL = (
    *STAGES,
    (r"^(ups\.\d)\.0\.conv\.", r"\1.wider.0."),
    (r"^(ups\.\d)\.0\.adn\.A\.", r"\1.wider.2."),
    (r"^(ups\.\d)\.1\.", r"\1.unit."),
    (r"\.conv\.unit(\d)\.conv\.", r".branch.\1.0."),
    (r"\.conv\.unit(\d)\.adn\.A\.", r".branch.\1.2."),
    (r"\.residual\.", ".shortcut."),
)
TINY = (
    *STAGES,
    (r"^(ups\.\d)\.", r"\1.wider."),
    (r"\.conv\.", ".0."),
    (r"\.adn\.A\.", ".2."),
)
SEGRESNET = (
    (r"^convInit\.conv\.", "stem."),
    (r"^down_layers\.1\.0\.conv\.", "downs.0."),
    (r"^down_layers\.2\.0\.conv\.", "downs.1."),
    (r"^down_layers\.3\.0\.conv\.", "downs.2."),
    (r"^down_layers\.(\d)\.1\.", r"encoders.\1.0."),
    (r"^down_layers\.(\d)\.2\.", r"encoders.\1.1."),
    (r"^down_layers\.(\d)\.3\.", r"encoders.\1.2."),
    (r"^down_layers\.(\d)\.4\.", r"encoders.\1.3."),
    (r"^up_samples\.(\d)\.0\.conv\.", r"ups.\1."),
    (r"^up_layers\.(\d)\.0\.", r"decoders.\1."),
    (r"^conv_final\.0\.", "head.0."),
    (r"^conv_final\.2\.conv\.", "head.2."),
    (r"\.norm1\.", ".branch.0."),
    (r"\.conv1\.conv\.", ".branch.2."),
    (r"\.norm2\.", ".branch.3."),
    (r"\.conv2\.conv\.", ".branch.5."),
)
"""What each key of theirs is called here, one pattern after the other."""


@pytest.fixture(scope="module")
def nets():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks import nets

        return nets


def renamed(weights, patterns):
    named = {}
    for key, value in weights.items():
        for theirs, ours in patterns:
            key = re.sub(theirs, ours, key)
        named[key] = value
    return named


def theirs(nets, name):
    if name == "segresnet":
        return nets.SegResNet(spatial_dims=3, init_filters=8, in_channels=2, out_channels=3)
    units = 2 if name == "residual-unet-3d" else 0
    return nets.UNet(
        spatial_dims=3, in_channels=2, out_channels=3, channels=(8, 16, 32, 64), strides=(2, 2, 2), num_res_units=units
    )


@pytest.mark.parametrize(
    ("name", "patterns"), [("residual-unet-3d", RESIDUAL), ("tiny-unet-3d", TINY), ("segresnet", SEGRESNET)]
)
def test_logits_and_gradients_are_those_of_monai_with_its_weights(nets, name, patterns):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = theirs(nets, name)
    network = models.build(network_config(name, width=8), in_channels=2, classes=3, dims=3)
    network.load_state_dict(renamed(judge.state_dict(), patterns))
    images = torch.rand(2, 2, 16, 32, 16)
    expected, output = judge(images), network(images)
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-5)
    expected.square().mean().backward()
    output.logits.square().mean().backward()
    gradients = renamed({key: p.grad for key, p in judge.named_parameters()}, patterns)
    for key, p in network.named_parameters():
        torch.testing.assert_close(p.grad, gradients[key], rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("weights", ["constant", "gaussian"])
@pytest.mark.parametrize(
    ("shape", "size", "overlap"), [((30, 21, 17), (16, 16, 8), 0.5), ((24, 9, 16), (16, 16, 16), 0.25)]
)
def test_the_sliding_window_is_monais(weights, shape, size, overlap):
    from monai.inferers import sliding_window_inference

    torch.manual_seed(1)
    network = models.build(network_config("tiny-unet-3d", width=4), in_channels=2, classes=3, dims=3).eval()
    volume = torch.randn(2, *shape)
    window = SlidingWindow(size, overlap, weights)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pieces = window.planes(volume, lambda patches: network(patches).logits, torch.device("cpu"))
        ours = torch.cat([piece for _, piece in pieces], dim=1)
        theirs = sliding_window_inference(
            volume[None], size, 4, lambda patches: network(patches).logits, overlap=overlap, mode=weights
        )
    torch.testing.assert_close(ours, theirs[0], atol=1e-5, rtol=0)
