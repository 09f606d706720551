"""What a network, batch, ranks and size cannot train is found before any training, with what fits."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch

import models
from models.config import SmpNetwork
from trainer.config import RunConfig
from trainer.dry_run import check, refuse_large_batch

needs_smp = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed"
)
DATA = {"name": "blobs", "size": 32, "train": 16, "validation": 6}
PLAIN = {"epochs": 1, "batch_size": 4, "data": DATA, "student": {"name": "unet", "width": 4}, "losses": {"ce": {}}}
SWIN = "tu-swin_tiny_patch4_window7_224"


def make(**changes: Any) -> RunConfig:
    return RunConfig.model_validate({**PLAIN, **changes})


def refusal(run: RunConfig, ranks: int = 1) -> str:
    with pytest.raises(ValueError, match=" = ") as caught:
        check(run, ranks=ranks)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("run", "ranks", "expected"),
    [
        (
            make(batch_size=1, data=DATA | {"size": 16}),
            1,
            "batch_size = 1: with one image the student unet at data.size = 16 has to normalise a single value; take "
            "batch_size = 2 or more, or data.size = 32, 48, 64",
        ),
        (make(batch_size=3, data=DATA | {"size": 16}), 2, "with one image a rank (of 2) the student unet"),
        (make(batch_size=2), 3, "batch_size = 2: smaller than the 3 ranks that share it; take 3 at least"),
    ],
)
def test_one_image_a_rank_is_refused_where_it_leaves_a_single_value(run: RunConfig, ranks: int, expected: str) -> None:
    assert expected in refusal(run, ranks)


@needs_smp
def test_a_pooled_branch_has_a_single_value_at_every_size() -> None:
    student = {"name": "smp-deeplabv3plus", "encoder": "resnet18"}
    said = refusal(make(batch_size=1, student=student))
    assert "the student smp-deeplabv3plus on resnet18 at data.size = 32 has to normalise a single value" in said
    assert said.endswith("take batch_size = 2 or more")
    check(make(batch_size=2, student=student))


@pytest.mark.parametrize(("batch_size", "ranks", "size"), [(1, 1, 32), (2, 1, 16), (4, 2, 16), (1, 1, 48)])
def test_what_trains_is_not_refused(batch_size: int, ranks: int, size: int) -> None:
    run = make(batch_size=batch_size, data=DATA | {"size": size})
    check(run, ranks=ranks)
    network = models.build(run.student, in_channels=3, classes=2, size=size).train()
    network(torch.rand(batch_size // ranks, 3, size, size))


def test_a_batch_larger_than_the_training_part_is_refused() -> None:
    refuse_large_batch(make(batch_size=16), 16)
    with pytest.raises(ValueError, match=r"^batch_size = 17: more than the 16 training images; 16 fit at most$"):
        refuse_large_batch(make(batch_size=17, data=DATA | {"train": 64}), 16)
    assert "more than the 16 training images" in refusal(make(batch_size=17))


@needs_smp
@pytest.mark.parametrize("encoder", [SWIN, "tu-maxvit_tiny_tf_224"])
def test_an_encoder_of_a_fixed_size_is_made_for_the_size_of_the_data(encoder: str) -> None:
    facts = check(make(data=DATA | {"size": 96}, student={"name": "smp-unet", "encoder": encoder}))
    assert facts.flops > 0


@needs_smp
def test_at_its_own_size_and_where_any_size_goes_through_a_network_is_what_it_was() -> None:
    for encoder, size in ((SWIN, 224), ("tu-mobilenetv3_small_050", 96), ("tu-mvitv2_tiny", 96)):
        config = SmpNetwork(name="smp-unet", encoder=encoder)
        with torch.device("meta"):
            plain = models.build(config, in_channels=3, classes=2)
            sized = models.build(config, in_channels=3, classes=2, size=size)
        assert {name: tensor.shape for name, tensor in plain.state_dict().items()} == {
            name: tensor.shape for name, tensor in sized.state_dict().items()
        }


@needs_smp
def test_being_made_for_a_size_draws_no_number() -> None:
    config = SmpNetwork(name="smp-unet", encoder="tu-mobilenetv3_small_050")
    torch.manual_seed(1)
    plain = models.build(config, in_channels=3, classes=2).state_dict()
    torch.manual_seed(1)
    sized = models.build(config, in_channels=3, classes=2, size=64).state_dict()
    assert all(torch.equal(sized[name], tensor) for name, tensor in plain.items())


@needs_smp
def test_an_encoder_that_cannot_be_made_for_a_size_names_those_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.dry_run.TRIED", 5)  # each is built anew
    run = make(data=DATA | {"size": 192}, student={"name": "smp-unet", "encoder": "tu-efficientformer_l1"})
    said = refusal(run)
    assert said.startswith("data.size = 192: the student smp-unet on tu-efficientformer_l1 does not take it (")
    assert said.endswith("sizes that fit: 224")
