"""What pretrained encoders expect of their images, and how a network's configuration says it."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

import models
from models.config import NetworkConfig, SmpNetwork, SmpTeacher
from models.normalisation import IMAGENET, Normalisation, pretrained_input

needs_smp = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed"
)
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
EXPECTING_HALF = "timm-mobilenetv3_small_100"
DPN = {"dpn68": "imagenet", "dpn68b": "imagenet+5k", "dpn107": "imagenet+5k"}


def smp(**options: Any) -> SmpNetwork:
    return SmpNetwork.model_validate({"name": "smp-unet", "encoder": EXPECTING_HALF} | options)


@needs_smp
@pytest.mark.parametrize(
    ("encoder", "weights", "expected"),
    [
        ("tu-mobilevit_s", "imagenet", Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        ("tu-mobilevit_s.cvnets_in1k", "imagenet", Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        ("timm-mobilenetv3_large_100", "imagenet", HALF),
        ("tu-tf_efficientnetv2_s", "imagenet", HALF),
        ("timm-efficientnet-b0", "advprop", HALF),
        ("timm-efficientnet-b0", "noisy-student", None),
        ("efficientnet-b3", "advprop", HALF),
        ("efficientnet-b3", "imagenet", None),
        ("inceptionv4", "imagenet+background", HALF),
        ("xception", "imagenet", HALF),
        ("resnet101", "imagenet", None),
        ("tu-resnet18", "imagenet", None),
        ("tu-mobilevit_s", None, None),
        ("tu-mobilevit_s.no_such_tag", "imagenet", None),
        ("tu-no_such_model", "imagenet", None),
    ],
)
def test_pretrained_weights_expect_what_their_packages_say(
    encoder: str, weights: str | None, expected: Normalisation | None
) -> None:
    assert pretrained_input(encoder, weights) == expected


def test_dual_path_networks_have_a_mean_of_their_own() -> None:
    for encoder, weights in DPN.items():
        known = pretrained_input(encoder, weights)
        assert known is not None
        assert known.mean == pytest.approx((0.4863, 0.4588, 0.4078), abs=1e-4)
        assert known.std == pytest.approx((0.2348,) * 3, abs=1e-4)


@needs_smp
def test_every_encoder_with_a_timm_name_is_judged_by_timm() -> None:
    """All of the package's own are known by name alone, and all others by timm: no third kind is left."""
    models.build(smp(), in_channels=3, classes=2)  # the package can be imported from here on
    import segmentation_models_pytorch as package
    import timm

    for encoder, entry in package.encoders.encoders.items():
        for weights in entry["pretrained_settings"]:
            assert pretrained_input(encoder, weights) in (None, HALF, pretrained_input("dpn68", "imagenet"))
    for name in timm.list_models("mobil*", pretrained=True):
        config = timm.models.get_pretrained_cfg(name)
        assert (pretrained_input(f"tu-{name}", "imagenet") or IMAGENET) == (config.mean, config.std), name


@needs_smp
def test_a_word_becomes_numbers_which_are_written_only_where_they_are_not_imagenets() -> None:
    own = smp(weights="imagenet", normalisation="encoder")
    assert (own.mean, own.std) == HALF
    assert own.expects == HALF
    assert {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}.items() <= own.model_dump(mode="json").items()
    assert TypeAdapter(NetworkConfig).validate_json(own.model_dump_json()) == own
    for plain in (
        smp(weights="imagenet"),
        smp(weights="imagenet", normalisation="imagenet"),
        smp(weights="imagenet", mean=IMAGENET.mean, std=IMAGENET.std),
        smp(normalisation="encoder"),
        smp(encoder="resnet18", weights="imagenet", normalisation="encoder"),
    ):
        assert plain.expects == IMAGENET
        assert set(plain.model_dump()) == {"name", "encoder", "weights", "checkpoint"}


@needs_smp
def test_a_network_says_how_its_images_are_normalised() -> None:
    with torch.device("meta"):
        assert models.build(smp(), in_channels=3, classes=2).normalisation == IMAGENET
        table = {"name": "smp-unet", "encoder": "resnet18", "mean": [0, 0, 0], "std": [1, 1, 1]}
        config = SmpTeacher.model_validate(table)
        assert models.build(config, in_channels=3, classes=2).normalisation == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mean": [0.5, 0.5, 0.5]}, "std: missing; mean and std are given together"),
        ({"mean": [0.5], "std": [0.5]}, "mean = .*expected three values"),
        ({"mean": [0.5] * 3, "std": [0.5, 0, 0.5]}, "expected values above 0"),
        ({"normalisation": "imagenet", "mean": [0.5] * 3, "std": [0.5] * 3}, "beside mean; keep one of them"),
        ({"normalisation": "imagnet"}, "'encoder' or 'imagenet'"),
    ],
)
def test_mistakes_are_said(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        smp(**options)
