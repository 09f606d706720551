"""Distances of masks, and the teacher's, which students beside each other share."""

import numpy as np
import pytest
import torch
from scipy import ndimage

import losses
from losses import boundary_soft
from losses.config import BoundarySoft
from losses.distance import LONGEST, squared_distances
from losses.term import IGNORE
from models.output import Output, Tap

TAPS = {"a": Tap(3, 1)}


def masks(shape, seed):
    """Blots of several sizes, single voxels, a line, an empty and a full mask."""
    draw = np.random.default_rng(seed)
    made = []
    for width, share in ((0.4, 0.5), (2.0, 0.1), (max(shape) / 12, 0.5), (max(shape) / 6, 0.9)):
        field = ndimage.gaussian_filter(draw.normal(size=shape), width)
        made.append(field > np.quantile(field, 1 - share))
    single, line = np.zeros(shape, bool), np.zeros(shape, bool)
    single[0, -1] = line[:, shape[1] // 3] = True
    return np.stack([*made, single, ~single, line, np.zeros(shape, bool), np.ones(shape, bool)])


@pytest.mark.parametrize("shape", [(1, 9), (37, 53), (128, 128), (LONGEST, LONGEST), (12, LONGEST + 1)])
def test_distances_of_images_are_exact_up_to_the_longest_side(shape):
    drawn = masks(shape, sum(shape))
    for mask, found in zip(drawn, squared_distances(torch.tensor(drawn)).numpy(), strict=True):
        far = np.zeros(shape)
        if mask.any() and not mask.all():
            far = ndimage.distance_transform_edt(mask) ** 2 + ndimage.distance_transform_edt(~mask) ** 2
        assert np.array_equal(found, np.rint(far))


@pytest.fixture
def counted(monkeypatch):
    """How many masks were transformed, call by call."""
    calls = []

    def counting(masks):
        calls.append(len(masks))
        return squared_distances(masks)

    monkeypatch.setattr(boundary_soft, "squared_distances", counting)
    return calls


def output(seed):
    torch.manual_seed(seed)
    return Output(torch.randn(2, 3, 16, 16, requires_grad=True), {})


def soft(student, teacher, target):
    """Value and gradient of one student's term."""
    loss = losses.build("boundary-soft", BoundarySoft(), student=TAPS, teacher=TAPS, classes=3, regions=False)
    loss.begin_epoch(3, 4)
    ours = student.logits.detach().requires_grad_()
    total = loss(Output(ours, {}), teacher, target).total
    total.backward()
    return total.detach(), ours.grad


def test_students_beside_each_other_share_the_teacher_s_distances_bit_for_bit(counted):
    teacher, target = output(0), torch.randint(0, 3, (2, 16, 16))
    target[:, :3] = IGNORE
    alone = [soft(output(seed), Output(teacher.logits.detach().clone(), {}), target) for seed in (1, 2, 3)]
    assert counted == [4] * 6
    counted.clear()
    shared = [soft(output(seed), teacher, target) for seed in (1, 2, 3)]
    assert counted == [4] * 4  # each student's, and the teacher's once
    for (value, gradient), (other, other_gradient) in zip(alone, shared, strict=True):
        assert torch.equal(value, other)
        assert torch.equal(gradient, other_gradient)


def test_another_target_and_logits_that_were_written_to_have_distances_of_their_own(counted):
    student, teacher = output(1), Output(output(0).logits.detach(), {})
    target = torch.zeros(2, 16, 16, dtype=torch.int64)
    first = soft(student, teacher, target)
    ignored = target.clone()
    ignored[:, :8] = IGNORE
    assert soft(student, teacher, ignored)[0] != first[0]
    teacher.logits.copy_(teacher.logits.flip(2))
    assert torch.equal(soft(student, teacher, target)[0], soft(student, output_flipped(), target)[0])
    target[:, 8:] = IGNORE
    assert torch.equal(soft(student, teacher, target)[0], soft(student, output_flipped(), target.clone())[0])
    assert len(counted) == 12


def output_flipped():
    """The teacher's logits upside down, as an output of its own."""
    return Output(output(0).logits.detach().flip(2), {})
