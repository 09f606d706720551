"""Scores: hand cases, torchmetrics as a second opinion, and independence of batches, modes and ranks."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from models.config import UNetNetwork
from models.output import Output, Segmenter
from models.torchvision_guard import make_importable
from trainer.config import BlobsData
from trainer.data import DataError, DataSet, Opening, open_data
from trainer.data.dataset import Placement
from trainer.distributed.ranks import Ranks
from trainer.evaluation.confusion import confusion
from trainer.evaluation.metrics import POOLED, SCORES, native_logits, score, validate

OPENING = Opening(who="test", when="2026-01-01T00:00:00+00:00", purpose="a test")


def means(predicted: list[list[int]], truth: list[list[int]], classes: int = 2) -> dict[str, float]:
    """Scores of one image given as rows of labels."""
    counts = confusion(torch.tensor([predicted]), torch.tensor([truth]), classes)
    return score(counts.numpy().astype(np.float64)).means


class Redness(Segmenter):
    """Foreground where the normalised red channel is high; no weights, so that its masks are known."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.taps = {}
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Output:
        red = self.norm(images)[:, :1]
        return Output(torch.cat([0.5 - red, red - 0.5], dim=1), {})


@pytest.fixture
def blobs(tmp_path: Any) -> DataSet:
    """Seven validation images of several native sizes."""
    return open_data(BlobsData(name="blobs", size=32, train=4, validation=7, test=3), cache=tmp_path)


class TestHandCases:
    def test_counts_of_a_small_image(self) -> None:
        counts = confusion(torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, 0, 1, 0]]]), 2)
        assert counts[0, 1].tolist() == [1, 1, 1, 1]
        assert counts[0, 0].tolist() == [1, 1, 1, 1]

    def test_scores_of_a_small_image(self) -> None:
        found = means([[1, 1, 1, 0, 0, 0]], [[1, 1, 0, 1, 0, 0]])
        assert found["dice"] == pytest.approx(4 / 6)
        assert found["iou"] == pytest.approx(2 / 4)
        assert found["precision"] == pytest.approx(2 / 3)
        assert found["recall"] == pytest.approx(2 / 3)
        assert found["specificity"] == pytest.approx(2 / 3)
        assert found["accuracy"] == pytest.approx(4 / 6)
        assert found["mdice"] == pytest.approx((4 / 6 + 4 / 6) / 2)
        assert found["miou"] == pytest.approx(0.5)

    def test_ignored_pixels_count_nowhere(self) -> None:
        assert means([[1, 1, 0, 1]], [[1, 255, 0, 255]]) == means([[1, 0]], [[1, 0]])
        everything_ignored = means([[1, 0]], [[255, 255]])
        assert set(everything_ignored.values()) == {1.0}

    def test_truth_and_prediction_both_empty_score_one(self) -> None:
        assert set(means([[0, 0]], [[0, 0]]).values()) == {1.0}

    def test_only_the_truth_empty_scores_zero_where_the_foreground_counts(self) -> None:
        found = means([[0, 1]], [[0, 0]])
        assert [found[name] for name in ("dice", "iou", "precision", "recall")] == [0.0] * 4
        assert found["specificity"] == found["accuracy"] == 0.5

    def test_only_the_prediction_empty_scores_zero_where_the_foreground_counts(self) -> None:
        found = means([[0, 0]], [[0, 1]])
        assert [found[name] for name in ("dice", "iou", "precision", "recall")] == [0.0] * 4
        assert found["specificity"] == 1.0

    def test_a_truth_without_background_leaves_specificity_one(self) -> None:
        assert means([[1, 0]], [[1, 1]])["specificity"] == 1.0

    def test_several_classes_are_averaged_without_the_background_but_pooled_with_it(self) -> None:
        found = means([[0, 0, 1, 1, 2, 2]], [[0, 0, 1, 1, 1, 2]], classes=3)
        assert found["dice"] == pytest.approx((4 / 5 + 2 / 3) / 2)
        assert found["mdice"] == pytest.approx((1 + 4 / 5 + 2 / 3) / 3)

    def test_image_scores_are_means_over_images_but_pooled_ones_over_pixels(self) -> None:
        predicted = torch.tensor([[[1, 1, 1, 1]], [[0, 0, 0, 1]]])
        truth = torch.tensor([[[1, 1, 1, 1]], [[0, 0, 1, 0]]])
        found = score(confusion(predicted, truth, 2).numpy().astype(np.float64))
        assert found.images["dice"].tolist() == [1.0, 0.0]
        assert found.means["dice"] == 0.5
        assert found.means["mdice"] == pytest.approx((2 * 4 / (8 + 1 + 1) + 2 * 2 / (4 + 1 + 1)) / 2)

    def test_every_mean_is_a_plain_float(self) -> None:
        found = means([[0, 1]], [[0, 1]])
        assert {type(value) for value in found.values()} == {float}
        assert list(found) == [*SCORES, *POOLED]


class TestSecondOpinion:
    """torchmetrics on random masks; no mask is empty there, because conventions differ."""

    @pytest.fixture
    def second(self) -> Any:
        """torchmetrics, which imports torchvision where that is installed."""
        if find_spec("torchvision"):
            make_importable()
        return import_module("torchmetrics.functional.classification")

    @pytest.mark.parametrize("classes", [2, 4])
    def test_pooled_scores_equal_torchmetrics(self, second: Any, classes: int) -> None:
        predicted, truth = self.masks(classes)
        found = score(confusion(predicted, truth, classes).numpy().astype(np.float64)).means
        arguments: dict[str, Any] = {"num_classes": classes, "average": "macro", "ignore_index": 255}
        assert found["mdice"] == pytest.approx(
            float(second.multiclass_f1_score(predicted, truth, **arguments)), abs=1e-6
        )
        assert found["miou"] == pytest.approx(
            float(second.multiclass_jaccard_index(predicted, truth, **arguments)), abs=1e-6
        )

    @pytest.mark.parametrize("classes", [2, 4])
    @pytest.mark.parametrize(
        ("name", "metric"),
        [
            ("dice", "multiclass_f1_score"),
            ("precision", "multiclass_precision"),
            ("recall", "multiclass_recall"),
            ("specificity", "multiclass_specificity"),
        ],
    )
    def test_scores_of_images_equal_torchmetrics(self, second: Any, name: str, metric: str, classes: int) -> None:
        predicted, truth = self.masks(classes)
        found = score(confusion(predicted, truth, classes).numpy().astype(np.float64)).images[name]
        for image in range(len(predicted)):
            each = getattr(second, metric)(
                predicted[image], truth[image], num_classes=classes, average="none", ignore_index=255
            )
            assert found[image] == pytest.approx(float(each[1:].mean()), abs=1e-6)

    @staticmethod
    def masks(classes: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(classes)
        shape = (5, 24, 30)
        truth = torch.randint(0, classes, shape, generator=generator)
        wrong = torch.rand(shape, generator=generator) < 0.3
        predicted = torch.where(wrong, torch.randint(0, classes, shape, generator=generator), truth)
        truth[torch.rand(shape, generator=generator) < 0.1] = 255
        return predicted, truth


class TestNativeSize:
    def test_what_letterboxing_added_is_cut_off(self) -> None:
        logits = torch.arange(64.0).reshape(1, 1, 8, 8)
        there = native_logits(logits, Placement(height=4, width=8, top=2, left=0, inner_height=4, inner_width=8))
        assert torch.equal(there, logits[:, :, 2:6])

    def test_logits_and_not_labels_are_resized(self) -> None:
        logits = torch.tensor([[[[0.0, 1.0]]]])
        there = native_logits(logits, Placement(height=1, width=4, top=0, left=0, inner_height=1, inner_width=2))
        assert there.flatten().tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])

    def test_masks_have_the_native_size(self, blobs: DataSet) -> None:
        shapes: dict[int, Tensor] = {}
        validate(Redness(), blobs, "validation", ranks=Ranks("cpu"), precision="fp32", keep=shapes.__setitem__)
        expected = [blobs.native_mask("validation", index).shape for index in range(7)]
        assert len(set(expected)) > 1
        assert [shapes[index].shape[1:] for index in range(7)] == expected


class Part(Ranks):
    """One rank of several in one process: its counts are kept, and the sum is put in from outside."""

    def __init__(self, rank: int, others: list[Tensor], world: int = 3) -> None:
        super().__init__("cpu")
        self.rank, self.world, self.others = rank, world, others

    def all_reduce(self, tensor: Tensor) -> Tensor:
        self.others.append(tensor.clone())
        return torch.stack(self.others).sum(0)


class TestValidate:
    def test_scores_are_those_of_the_kept_logits(self, blobs: DataSet) -> None:
        kept: dict[int, Tensor] = {}
        found = validate(Redness(), blobs, "validation", ranks=Ranks("cpu"), precision="fp32", keep=kept.__setitem__)
        for index in range(7):
            mask = kept[index].argmax(0).numpy()
            truth = blobs.native_mask("validation", index)
            both, sizes = int(((mask == 1) & (truth == 1)).sum()), int((mask == 1).sum() + (truth == 1).sum())
            assert found.images["dice"][index] == pytest.approx(2 * both / sizes if sizes else 1.0)
        assert found.means["dice"] == pytest.approx(float(found.images["dice"].mean()))

    @pytest.mark.parametrize("batch_size", [1, 3, 16])
    def test_batch_size_changes_nothing(self, blobs: DataSet, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trainer.evaluation.metrics._SHARES", 1)
        one = validate(Redness(), blobs, "validation", ranks=Ranks("cpu"), precision="fp32")
        other = validate(Redness(), blobs, "validation", ranks=Ranks("cpu"), precision="fp32", batch_size=batch_size)
        assert one.means == other.means

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_a_network_scores_the_same_bit_for_bit_on_any_number_of_ranks(
        self, blobs: DataSet, precision: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An image is in the same batch whoever scores it, so that even the rounding of its logits is the same."""
        monkeypatch.setattr("trainer.evaluation.metrics._SHARES", 1)
        network = models.build(UNetNetwork(name="unet", width=4), in_channels=3, classes=2)
        found = []
        for world in (1, 3):
            logits: dict[int, Tensor] = {}
            parts: list[Tensor] = []
            for rank in range(world):
                ranks = Part(rank, parts, world)
                validate(
                    network,
                    blobs,
                    "validation",
                    ranks=ranks,
                    precision=cast(Any, precision),
                    batch_size=2,
                    keep=logits.__setitem__,
                )
            found.append(logits)
        assert all(torch.equal(found[0][index], found[1][index]) for index in range(7))

    def test_ranks_share_the_images_evenly_and_find_the_same(self, blobs: DataSet) -> None:
        """Also where all of them would be one batch."""
        alone = validate(Redness(), blobs, "validation", ranks=Ranks("cpu"), precision="fp32")
        parts: list[Tensor] = []
        for rank in range(3):
            ranks = Part(rank, parts)
            together = validate(Redness(), blobs, "validation", ranks=ranks, precision="fp32")
        assert [int((part.sum((1, 2)) > 0).sum()) for part in parts] == [3, 2, 2]
        assert together.means == alone.means
        assert np.array_equal(together.images["iou"], alone.images["iou"])

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_lower_precision_scores_in_float32_at_native_size(self, blobs: DataSet, precision: str) -> None:
        kinds = set()
        found = validate(
            Redness(),
            blobs,
            "validation",
            ranks=Ranks("cpu"),
            precision=cast(Any, precision),
            keep=lambda _, logits: kinds.add(logits.dtype),
        )
        assert kinds == {torch.float32}
        assert 0.0 <= found.means["dice"] <= 1.0

    def test_the_network_learns_nothing_and_keeps_its_mode(self, blobs: DataSet) -> None:
        network = Redness().train()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        validate(network, blobs, "validation", ranks=Ranks("cpu"), precision="fp32")
        assert network.training
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())

    def test_test_rows_need_an_opening(self, blobs: DataSet) -> None:
        with pytest.raises(DataError, match="closed"):
            validate(Redness(), blobs, "test", ranks=Ranks("cpu"), precision="fp32")
        opened = validate(Redness(), blobs, "test", ranks=Ranks("cpu"), precision="fp32", opening=OPENING)
        assert len(opened.images["dice"]) == 3


def test_several_classes_have_scores_of_their_own_beside_their_mean() -> None:
    counts = np.array(
        [[[50, 0, 0, 50], [10, 0, 10, 80], [5, 5, 0, 90]], [[90, 0, 0, 10], [4, 0, 0, 96], [0, 0, 6, 94]]]
    )
    scores = score(counts.astype(np.float64), ["liver", "spleen"])
    assert scores.images["dice.liver"].tolist() == [pytest.approx(2 / 3), 1.0]
    assert scores.images["dice.spleen"].tolist() == [pytest.approx(2 / 3), 0.0]
    assert scores.means["dice"] == pytest.approx((scores.means["dice.liver"] + scores.means["dice.spleen"]) / 2)


def test_slices_of_a_volume_are_one_case() -> None:
    """Their counts are summed: a small object in one slice weighs as little as it does in the volume."""
    counts = np.array(
        [[[80, 0, 0, 20], [20, 0, 0, 80]], [[98, 0, 2, 0], [0, 2, 0, 98]], [[90, 0, 0, 10], [5, 0, 5, 90]]]
    )
    apart, together = score(counts.astype(np.float64)), score(counts.astype(np.float64), cases=[0, 0, 1])
    assert apart.means["dice"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert together.means["dice"] == pytest.approx((40 / 42 + 2 / 3) / 2)
    assert together.images["dice"].tolist() == apart.images["dice"].tolist()
