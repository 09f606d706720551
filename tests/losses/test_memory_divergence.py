"""The comparison with a memory, which keeps no table, against the plain statement of its formula."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from losses import cirkd_memory
from losses.cirkd_memory import memory_divergence


def plain(student, teacher, bank, columns):
    """KL of softmaxes over columns, row by row, in numpy."""
    values = []
    for s, t in zip(student, teacher, strict=True):
        logs = [x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in (bank @ s + columns, bank @ t + columns)]
        values.append((np.exp(logs[1]) * (logs[1] - logs[0])).sum())
    return np.array(values)


def scene(rows=7, columns=23, channels=5):
    draw = np.random.default_rng(0)
    student, teacher = (4 * draw.normal(size=(rows, channels)) for _ in range(2))
    gone = np.where(draw.random(columns) < 0.3, -1e4, 0.0)
    return student, teacher, draw.normal(size=(columns, channels)), gone


@pytest.mark.parametrize("table", [1, 50, 10_000])
def test_value_and_gradient_are_those_of_the_formula_however_many_rows_are_taken_at_a_time(monkeypatch, table):
    monkeypatch.setattr(cirkd_memory, "TABLE", table)
    student, teacher, bank, columns = scene()
    ours = torch.tensor(student, requires_grad=True)
    each = memory_divergence(ours, *map(torch.tensor, (teacher, bank, columns)))
    assert each.detach().numpy() == pytest.approx(plain(student, teacher, bank, columns), rel=1e-9)
    weights = np.random.default_rng(1).normal(size=len(student))
    (each * torch.tensor(weights)).sum().backward()
    for axis in np.ndindex(student.shape):
        moved = np.zeros_like(student)
        moved[axis] = 1e-5
        ends = [plain(student + sign * moved, teacher, bank, columns) @ weights for sign in (1, -1)]
        assert ours.grad[axis] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-8)


def test_equal_rows_have_neither_value_nor_gradient():
    student, _, bank, columns = (torch.tensor(x, dtype=torch.float32) for x in scene())
    ours = student.clone().requires_grad_()
    each = memory_divergence(ours, student, bank, columns)
    each.sum().backward()
    assert each.abs().max() == 0.0
    assert ours.grad.abs().max() == 0.0


def test_it_is_what_torch_s_own_operations_give_in_float32():
    student, teacher, bank, columns = (torch.tensor(x, dtype=torch.float32) for x in scene(40, 300, 16))
    ours, other = (student.clone().requires_grad_() for _ in range(2))
    each = memory_divergence(ours, teacher, bank, columns)
    near, wanted = (F.linear(x, bank, columns).log_softmax(1) for x in (other, teacher))
    expected = F.kl_div(near, wanted, reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-4)
    each.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, other.grad, rtol=1e-4, atol=1e-5)
