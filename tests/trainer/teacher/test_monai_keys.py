"""State dicts of MONAI's networks fill ours, and both then say the same."""

import warnings

import pytest
import torch
from torch import nn

import models
from models.config import NetworkTeacher, ResidualUNet3dTeacher, SegResNetTeacher, UNetTeacher
from trainer.errors import CheckpointError
from trainer.teacher import state_dict
from trainer.teacher.monai_keys import monai_pairs

pytest.importorskip("monai")


def theirs(config: NetworkTeacher) -> nn.Module:
    """MONAI's network, with weights drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import SegResNet, UNet

        torch.manual_seed(0)
        if config.name == "segresnet":
            return SegResNet(spatial_dims=3, init_filters=8, in_channels=1, out_channels=3, blocks_down=(1, 2, 2, 4))
        units = 2 if config.name == "residual-unet-3d" else 0
        widths, strides = (4, 8, 16, 32), (2, 2, 2)
        return UNet(3, in_channels=1, out_channels=3, channels=widths, strides=strides, num_res_units=units)


@pytest.mark.parametrize(
    "config",
    [
        ResidualUNet3dTeacher(name="tiny-unet-3d", width=4, keys="monai"),
        ResidualUNet3dTeacher(name="residual-unet-3d", width=4, keys="monai"),
        SegResNetTeacher(name="segresnet", width=8, keys="monai"),
    ],
    ids=lambda config: config.name,
)
def test_a_state_dict_of_monai_fills_ours(config):
    reference = theirs(config).eval()
    network = models.build(config, in_channels=1, classes=3, dims=3).eval()
    report = state_dict.fit(network, reference.state_dict(), monai_pairs(config))
    assert report.covered, report.summary()
    assert not report.unexpected
    images = torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.allclose(network(images).logits, reference(images), atol=1e-5)


def test_networks_that_monai_has_not_are_refused():
    with pytest.raises(
        CheckpointError, match='keys = "monai": MONAI has no unet with the same layers; known: tiny-unet'
    ):
        monai_pairs(UNetTeacher(name="unet", keys="monai"))
