"""Counts of a batch: the same integers as class-by-class sums, in one pass whatever the number of classes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trainer.evaluation.confusion import (
    _added,
    confusion,
    confusion_matrix,
    labels,
    region_confusion,
    region_masks,
)


def sums(predicted: Tensor, truth: Tensor, classes: int, ignore: int = 255) -> Tensor:
    """The same by definition, class by class."""
    valid = truth != ignore
    rows = []
    for label in range(classes):
        positive, true = (predicted == label) & valid, (truth == label) & valid
        masks = (positive & true, positive & ~true, true & ~positive, valid & ~true & ~positive)
        rows.append(torch.stack([mask.flatten(1).sum(1) for mask in masks], dim=-1))
    return torch.stack(rows, dim=1)


def batch(classes: int, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, classes, shape, generator=generator, dtype=torch.uint8)
    predicted = torch.randint(0, classes, shape, generator=generator, dtype=torch.uint8)
    truth[torch.rand(shape, generator=generator) < 0.2] = 255
    return predicted, truth


@pytest.mark.parametrize("shape", [(3, 11, 7), (2, 5, 4, 6), (2, 9)])
@pytest.mark.parametrize("classes", [2, 3, 9, 14, 15, 16, 17, 200])
def test_counts_are_the_sums_over_each_class(classes: int, shape: tuple[int, ...]):
    predicted, truth = batch(classes, shape)
    expected = sums(predicted, truth, classes)
    for kind in (torch.uint8, torch.int64):
        counted = confusion(predicted.to(kind), truth.to(kind), classes)
        assert counted.dtype == torch.int64
        assert torch.equal(counted, expected)


def test_two_classes_may_come_as_a_mask():
    predicted, truth = batch(2, (4, 8, 8))
    assert torch.equal(confusion(predicted == 1, truth, 2), sums(predicted, truth, 2))


@pytest.mark.parametrize("ignore", [-1, 0, 2, 7])
def test_any_value_may_be_the_one_that_is_ignored(ignore: int):
    predicted, truth = batch(4, (2, 6, 6))
    truth = truth.long()
    truth[truth == 255] = ignore
    assert torch.equal(confusion(predicted, truth, 4, ignore=ignore), sums(predicted, truth, 4, ignore))


def test_the_matrix_has_the_truth_first():
    predicted, truth = torch.tensor([[1, 1, 2, 0]]), torch.tensor([[0, 1, 1, 255]])
    assert confusion_matrix(predicted, truth, 3)[0].tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_a_batch_of_nothing_valid_counts_nothing():
    counted = confusion(torch.zeros(1, 3, 3, dtype=torch.uint8), torch.full((1, 3, 3), 255, dtype=torch.uint8), 5)
    assert counted.sum() == 0


def test_inputs_stay_as_they_are():
    predicted, truth = batch(3, (1, 4, 4))
    before = predicted.clone(), truth.clone()
    confusion(predicted, truth, 3)
    assert torch.equal(predicted, before[0])
    assert torch.equal(truth, before[1])


def test_regions_may_overlap_and_ignore_each_for_itself():
    predicted = torch.tensor([[[[1, 1, 0, 0]], [[1, 0, 0, 1]]]], dtype=torch.bool)
    truth = torch.tensor([[[[1, 0, 255, 0]], [[1, 1, 0, 0]]]], dtype=torch.uint8)
    assert region_confusion(predicted, truth).tolist() == [[[1, 1, 0, 1], [1, 1, 1, 1]]]
    volumes, masks = batch(2, (2, 3, 4, 5, 6))
    expected = torch.stack([sums(volumes[:, region], masks[:, region], 2)[:, 1] for region in range(3)], dim=1)
    assert torch.equal(region_confusion(volumes, masks), expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("classes", [2, 3, 9])
def test_a_label_is_the_first_of_the_greatest_logits(classes: int, layout: torch.memory_format):
    logits = torch.randint(0, 3, (2, classes, 5, 6), generator=torch.Generator().manual_seed(classes)).float()
    chosen = labels(logits.to(memory_format=layout))
    assert chosen.dtype == (torch.bool if classes == 2 else torch.uint8)
    assert torch.equal(chosen.long(), logits.argmax(1))
    assert torch.equal(labels(-torch.ones(1, classes, 2)).long(), torch.zeros(1, 2, dtype=torch.int64))


def test_regions_are_where_their_sigmoid_is_above_one_half():
    logits = torch.tensor([[[-1.0, 0.0, 0.1]]])
    assert torch.equal(region_masks(logits), logits.sigmoid() > 0.5)


class Calls(TorchFunctionMode):
    """Writes down what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


READS = frozenset(
    {"item", "tolist", "__bool__", "__int__", "__index__", "cpu", "numpy", "nonzero", "unique", "bincount"}
)
"""What makes a host wait for a device: values that it reads, or sizes that depend on values."""


@pytest.mark.parametrize("classes", [2, 3, 9])
def test_elsewhere_than_on_a_cpu_the_same_is_counted_and_nothing_is_read_by_the_host(
    classes: int, monkeypatch: pytest.MonkeyPatch
):
    predicted, truth = batch(classes, (3, 7, 7))
    expected = confusion(predicted, truth, classes)
    monkeypatch.setattr("trainer.evaluation.confusion.histograms", _added)
    with Calls() as calls:
        counted = confusion(predicted, truth, classes)
    assert torch.equal(counted, expected)
    assert "scatter_add_" in calls.names
    assert not READS & set(calls.names)


def test_nine_classes_take_as_many_passes_as_two():
    passes = []
    for classes in (2, 9):
        predicted, truth = batch(classes, (2, 16, 16))
        with Calls() as calls:
            confusion(predicted, truth, classes)
        passes.append(calls.names)
    assert passes[0] == passes[1]
