"""Optimizers over one flat tensor do what torch's do; schedules are functions of the iteration; the average grows."""

import math

import pytest
import torch

from trainer.config import OptimConfig
from trainer.engine.flat_parameters import Room
from trainer.engine.optim import OPTIMIZERS, SCHEDULES, Average, Optimizer, Schedule

ALLOWED = torch.tensor(True)
TORCH = {
    "sgd": lambda p, c: torch.optim.SGD(p, lr=c.lr, momentum=c.momentum, weight_decay=c.weight_decay, fused=True),
    "adam": lambda p, c: torch.optim.Adam(p, lr=c.lr, weight_decay=c.weight_decay, fused=True),
    "adamw": lambda p, c: torch.optim.AdamW(p, lr=c.lr, weight_decay=c.weight_decay, fused=True),
}


def config(**changes):
    return OptimConfig.model_validate(changes)


def copies(optimizer):
    return Room().copies("optimizer", optimizer.state)


def rates(epochs=10, steps=4, **schedule):
    run = Schedule(config(lr=1.0, schedule=schedule), epochs=epochs, steps=steps)
    return [run.rate(iteration) for iteration in range(epochs * steps)]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_a_flat_optimizer_walks_as_torch_does_to_the_bit(name, decay, momentum):
    settings = config(name=name, lr=0.02, weight_decay=decay, momentum=momentum)
    start = torch.randn(50, generator=torch.Generator().manual_seed(0))
    theirs = start.clone().requires_grad_()
    reference = TORCH[name]([theirs], settings)
    ours = start.clone()
    optimizer = Optimizer(settings, ours)
    for _ in range(30):
        theirs.grad = torch.sin(3 * theirs.detach())
        optimizer.step(torch.sin(3 * ours), settings.lr, ALLOWED)
        reference.step()
    assert torch.equal(ours, theirs.detach())
    assert (ours - start).abs().max() > 0.05


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_forbidden_step_changes_nothing_even_if_its_gradient_is_no_number(name):
    weights = torch.ones(4)
    optimizer = Optimizer(config(name=name), weights)
    optimizer.step(torch.ones(4), 0.1, ALLOWED)
    before, state = weights.clone(), copies(optimizer)
    optimizer.step(torch.tensor([math.nan, math.inf, 1.0, 0.0]), 0.1, torch.tensor(False))
    assert torch.equal(weights, before)
    assert all(torch.equal(state[key], value) for key, value in copies(optimizer).items())
    optimizer.step(torch.ones(4), 0.1, ALLOWED)
    assert not torch.equal(weights, before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_forbidden_first_step_leaves_no_trace(name):
    """SGD takes what it finds in its velocity from its second step on."""
    weights, other = torch.ones(64), torch.ones(64)
    optimizer, straight = (Optimizer(config(name=name, momentum=0.9), w) for w in (weights, other))
    optimizer.step(torch.full((64,), math.nan), 0.1, torch.tensor(False))
    for each in (optimizer, straight):
        each.step(torch.ones(64), 0.1, ALLOWED)
    assert torch.equal(weights, other)


def test_a_gradient_is_clipped_to_its_norm_and_a_short_one_is_left_alone():
    weights = torch.zeros(2)
    optimizer = Optimizer(config(name="sgd", momentum=0.0, clip=1.0), weights)
    optimizer.step(torch.tensor([30.0, 40.0]), 1.0, ALLOWED)
    torch.testing.assert_close(weights, torch.tensor([-0.6, -0.8]))
    optimizer.step(torch.tensor([0.3, 0.4]), 1.0, ALLOWED)
    torch.testing.assert_close(weights, torch.tensor([-0.9, -1.2]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_optimizer_goes_on_bit_for_bit(name):
    first = torch.linspace(-1, 1, 8)
    optimizer = Optimizer(config(name=name), first)
    optimizer.step(first.cos(), 0.1, ALLOWED)
    second = first.clone()
    resumed = Optimizer(config(name=name), second)
    resumed.load_state_dict(copies(optimizer))
    for weights, who in ((first, optimizer), (second, resumed)):
        who.step(weights.cos(), 0.1, ALLOWED)
    assert torch.equal(first, second)


def test_a_state_of_another_optimizer_is_refused():
    with pytest.raises(ValueError, match="momentum_buffer"):
        Optimizer(config(name="adam"), torch.zeros(3)).load_state_dict(
            copies(Optimizer(config(name="sgd"), torch.zeros(3)))
        )


def test_one_cycle_rises_to_the_rate_and_falls_to_its_end():
    found = rates(name="one-cycle", warmup_epochs=3, start_div=25.0, end_div=100.0)
    assert found[0] == pytest.approx(1 / 25)
    assert found[12] == max(found) == pytest.approx(1.0)
    assert found[-1] == pytest.approx(1 / 100)
    assert found[:13] == sorted(found[:13])
    assert found[12:] == sorted(found[12:], reverse=True)


def test_cosine_starts_at_the_rate_and_ends_at_its_share():
    found = rates(name="cosine", end=0.2)
    assert (found[0], found[-1]) == (1.0, pytest.approx(0.2))
    assert found[13] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * 13 / 39)) / 2)


def test_poly_falls_with_the_share_that_is_left():
    assert rates(name="poly", power=0.5)[30] == pytest.approx((10 / 40) ** 0.5)


@pytest.mark.parametrize("name", ["cosine", "poly", "constant", "plateau"])
def test_a_linear_warm_up_reaches_the_rate_with_its_last_step(name):
    assert rates(name=name, warmup_epochs=2)[:8] == [pytest.approx((i + 1) / 8) for i in range(8)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_rate_is_positive_or_zero_at_the_end_even_if_the_warm_up_outlasts_the_run(name):
    found = rates(epochs=2, steps=1, name=name, warmup_epochs=1)
    assert len(found) == 2
    assert all(0 <= rate <= 1 for rate in found)
    assert found[0] > 0
    assert all(0 < rate <= 1 for rate in rates(epochs=2, steps=3, name=name, warmup_epochs=5))


def test_plateau_lowers_the_rate_after_its_patience_and_remembers_that_when_resumed():
    settings = config(lr=1.0, schedule={"name": "plateau", "factor": 0.5, "patience": 1})
    schedule = Schedule(settings, epochs=10, steps=1)
    found = []
    for score in (0.1, 0.3, 0.2, 0.2, 0.2, 0.4, 0.3):
        schedule.scored(score)
        found.append(schedule.rate(0))
    assert found == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    resumed = Schedule(settings, epochs=10, steps=1)
    resumed.load_state_dict(schedule.state_dict())
    for who in (schedule, resumed):
        who.scored(0.3)
    assert schedule.rate(0) == resumed.rate(0) == 0.25


def test_the_average_is_the_weights_at_first_and_hardly_moves_at_the_end():
    mean = {"w": torch.zeros(1), "seen": torch.tensor(0)}
    average = Average(mean, total=4)
    expected = 0.0
    for iteration, value in enumerate([5.0, 1.0, 3.0, 7.0]):
        average.follow({"w": torch.tensor([value]), "seen": torch.tensor(iteration + 1)}, iteration)
        d = iteration / 4
        expected = d * expected + (1 - d) * value
        assert mean["w"].item() == pytest.approx(expected)
    assert mean["seen"].item() == 4
