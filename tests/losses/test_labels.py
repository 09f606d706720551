"""What losses share of a batch's target: computed once, and never that of another or of a changed one."""

import pytest
import torch

from losses.labels import amount, masked, valid_images, valid_voxels
from losses.term import IGNORE

SHAPE = (2, 6, 5, 4)


def labels(ignored: bool) -> torch.Tensor:
    target = torch.randint(3, SHAPE, generator=torch.Generator().manual_seed(1))
    if ignored:
        target[0, :2] = IGNORE
    return target


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("channels", [None, 3])
def test_masked_is_the_product_bit_for_bit_and_so_is_its_gradient(ignored, channels):
    valid = valid_voxels(labels(ignored))
    shape = SHAPE if channels is None else (SHAPE[0], channels, *SHAPE[1:])
    values = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    values.view(-1)[3] = -0.0
    by_mask, by_product = values.clone().requires_grad_(), values.clone().requires_grad_()
    counted = valid if channels is None else valid.unsqueeze(1)
    one, other = masked(by_mask, valid), by_product * counted
    assert torch.equal(one.view(torch.int32), other.view(torch.int32))
    for result in (one, other):
        torch.autograd.backward((result.square() * result.exp()).sum())
    assert by_mask.grad is not None
    assert by_product.grad is not None
    assert torch.equal(by_mask.grad.view(torch.int32), by_product.grad.view(torch.int32))


def test_regions_are_masked_by_channel():
    target = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    target[1, 2] = IGNORE
    assert masked(torch.ones(2, 3, 4, 4), valid_voxels(target)).sum() == 5 * 16


def test_a_target_is_looked_at_once_and_again_where_it_was_written_into():
    target = labels(ignored=False)
    valid = valid_voxels(target)
    assert valid_voxels(target) is valid
    assert amount(valid) == valid.numel()
    assert masked(torch.ones(SHAPE), valid).sum() == valid.numel()
    target[0] = IGNORE
    again = valid_voxels(target)
    assert again is not valid
    assert amount(again) == valid.numel() / 2
    assert valid_images(again).tolist() == [False, True]
    assert masked(torch.ones(SHAPE), again).sum() == valid.numel() / 2
    valid[0] = False
    assert amount(valid) == masked(torch.ones(SHAPE), valid).sum() == valid.numel() / 2
    assert amount(valid_voxels(target.clone())) == valid.numel() / 2


def test_nothing_is_kept_of_a_tensor_that_is_gone():
    for value in (0, IGNORE):
        assert bool(valid_voxels(torch.full(SHAPE, value)).all()) is (value == 0)
    with torch.inference_mode():
        target = labels(ignored=False)
        assert valid_voxels(target).all()
        target[:] = IGNORE
        assert not valid_voxels(target).any()
