"""How weights move: optimizers over one flat tensor, schedules as functions of the iteration, the average of weights.

A student's parameters lie in one flat tensor, so a step is one kernel whatever the network, and a step that a flag on
the device forbids changes nothing without the host having to look.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.config import Constant, Cosine, OneCycle, OptimConfig, Plateau, Poly, ScheduleConfig

State = dict[str, Tensor]


Step = Callable[[OptimConfig, Tensor, Tensor, State, float, Tensor], None]
"""(settings, weights, gradient, state, rate, forbidden): one step in place, unless `forbidden` is 1 and not 0."""


def _sgd(config: OptimConfig, weights: Tensor, gradient: Tensor, state: State, lr: float, forbidden: Tensor) -> None:
    """v = momentum v + g, p = p - lr v; weight decay joins g."""
    torch._fused_sgd_(
        [weights],
        [gradient],
        [state["momentum_buffer"]] if config.momentum else [],
        lr=lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        dampening=0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
        found_inf=forbidden,
    )


def _adam(config: OptimConfig, weights: Tensor, gradient: Tensor, state: State, lr: float, forbidden: Tensor) -> None:
    """Kingma and Ba 2015, algorithm 1, betas 0.9 and 0.999, epsilon 1e-8; weight decay joins the gradient."""
    _moments(torch._fused_adam_, config, weights, gradient, state, lr, forbidden)


def _adamw(config: OptimConfig, weights: Tensor, gradient: Tensor, state: State, lr: float, forbidden: Tensor) -> None:
    """Loshchilov and Hutter 2019, algorithm 2: the weights shrink by lr times weight decay beside Adam's step."""
    _moments(torch._fused_adamw_, config, weights, gradient, state, lr, forbidden)


def _moments(
    kernel: Callable[..., None],
    config: OptimConfig,
    weights: Tensor,
    gradient: Tensor,
    state: State,
    lr: float,
    forbidden: Tensor,
) -> None:
    state["step"].add_(1)
    kernel(
        [weights],
        [gradient],
        [state["exp_avg"]],
        [state["exp_avg_sq"]],
        [],
        [state["step"]],
        lr=lr,
        beta1=0.9,
        beta2=0.999,
        weight_decay=config.weight_decay,
        eps=1e-8,
        amsgrad=False,
        maximize=False,
        found_inf=forbidden,
    )
    state["step"].sub_(forbidden)


OPTIMIZERS: dict[str, Step] = {"sgd": _sgd, "adam": _adam, "adamw": _adamw}
SLOTS: dict[str, tuple[str, ...]] = {
    "sgd": ("momentum_buffer",),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}
"""What an optimizer keeps of the size of the weights, by the names that torch.optim has for it."""


class Optimizer:
    """One of torch's fused kernels over the flat `weights`, whose steps can be forbidden on the device.

    `torch.optim` calls the same kernels and gives the same bits, but its classes import the whole of torch's compiler
    when one is made, which takes about two seconds of every process that trains.
    """

    def __init__(self, config: OptimConfig, weights: Tensor) -> None:
        self.weights = weights
        self._config = config
        self._step = OPTIMIZERS[config.name]
        self.state: State = {slot: torch.zeros_like(weights) for slot in SLOTS[config.name]}
        if "exp_avg" in self.state:
            self.state["step"] = torch.zeros((), device=weights.device)

    @torch.no_grad()
    def step(self, gradient: Tensor, lr: float, allowed: Tensor) -> None:
        """Move the weights in place by one step of rate `lr` where the boolean scalar `allowed` holds, else not at all.

        A gradient whose norm is above `clip` is first brought to that norm.
        """
        if self._config.clip is not None:
            norm = torch.linalg.vector_norm(gradient)
            gradient = gradient * (self._config.clip / (norm + 1e-6)).clamp(max=1.0)
        self._step(self._config, self.weights, gradient, self.state, lr, (~allowed).float())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take a state of the same optimizer and size. Raises ValueError where it is another's."""
        wanted = {name: tuple(value.shape) for name, value in self.state.items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        if wanted != given:
            raise ValueError(f"the optimizer's state is {given}, expected {wanted}")
        for name, value in self.state.items():
            value.copy_(state[name])


class Schedule:
    """The rate at each iteration of a run: a function of the iteration alone, but for `plateau`, which looks at scores.

    steps: iterations an epoch. A run no longer than its warm-up ends within it.
    """

    def __init__(self, config: OptimConfig, *, epochs: int, steps: int) -> None:
        self.lr = config.lr
        self.config: ScheduleConfig = config.schedule
        self.total = max(epochs * steps, 1)
        self.warmup = min(config.schedule.warmup_epochs * steps, self.total)
        self.best: float | None = None
        self.worse = 0
        self.factor = 1.0

    def rate(self, iteration: int) -> float:
        """The rate of iteration 0..total-1."""
        return self.lr * SCHEDULES[self.config.name](self, iteration) * self.factor

    @property
    def looks_at_loss(self) -> bool:
        """Whether it is the loss on validation, and not the score, that has to get better."""
        return isinstance(self.config, Plateau) and self.config.by == "loss"

    def scored(self, score: float) -> None:
        """Take the score of a validation, or its loss times -1: higher is better; only `plateau` depends on it."""
        if not isinstance(self.config, Plateau):
            return
        if self.best is None or score > self.best:
            self.best, self.worse = score, 0
            return
        self.worse += 1
        if self.worse > self.config.patience:
            self.factor, self.worse = self.factor * self.config.factor, 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know beyond its iteration."""
        return {"best": self.best, "worse": self.worse, "factor": self.factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        self.best, self.worse, self.factor = state["best"], state["worse"], state["factor"]


def _rise(schedule: Schedule, iteration: int) -> float | None:
    """The linear warm-up, which reaches 1 with its last iteration; None after it."""
    return (iteration + 1) / schedule.warmup if iteration < schedule.warmup else None


def _progress(schedule: Schedule, iteration: int) -> float:
    """0 at the first iteration after the warm-up, 1 at the last of the run."""
    return min((iteration - schedule.warmup) / max(schedule.total - schedule.warmup - 1, 1), 1.0)


def _fall(progress: float, end: float) -> float:
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2


def one_cycle(schedule: Schedule, iteration: int) -> float:
    """Cosine rise from 1 / start_div to 1 over the warm-up, cosine fall to 1 / end_div at the last iteration."""
    config = schedule.config
    if not isinstance(config, OneCycle):
        raise TypeError(f"one-cycle needs its own options, not {config!r}")
    if iteration < schedule.warmup:
        return _fall(1 - iteration / schedule.warmup, 1 / config.start_div)
    return _fall(_progress(schedule, iteration), 1 / config.end_div)


def cosine(schedule: Schedule, iteration: int) -> float:
    """Linear rise, cosine fall to `end` at the last iteration."""
    config = schedule.config
    if not isinstance(config, Cosine):
        raise TypeError(f"cosine needs its own options, not {config!r}")
    risen = _rise(schedule, iteration)
    return _fall(_progress(schedule, iteration), config.end) if risen is None else risen


def poly(schedule: Schedule, iteration: int) -> float:
    """Linear rise, then (1 - share of the iterations after the warm-up that are over)^power: above 0 to the end."""
    config = schedule.config
    if not isinstance(config, Poly):
        raise TypeError(f"poly needs its own options, not {config!r}")
    risen = _rise(schedule, iteration)
    if risen is not None:
        return risen
    return float((1 - (iteration - schedule.warmup) / (schedule.total - schedule.warmup)) ** config.power)


def constant(schedule: Schedule, iteration: int) -> float:
    """Linear rise, then 1; `plateau` is this times a factor that falls with the scores."""
    if not isinstance(schedule.config, Constant | Plateau):
        raise TypeError(f"constant needs its own options, not {schedule.config!r}")
    risen = _rise(schedule, iteration)
    return 1.0 if risen is None else risen


SCHEDULES: dict[str, Callable[[Schedule, int], float]] = {
    "one-cycle": one_cycle,
    "cosine": cosine,
    "poly": poly,
    "plateau": constant,
    "constant": constant,
}


class Average:
    """An average of weights and buffers whose memory grows over the run: e = d e + (1 - d) m, d = iteration / total.

    Iterations count from 0, so that the first step replaces the start weights. Whole numbers are copied.
    tensors: the average itself, moved in place.
    """

    def __init__(self, tensors: Mapping[str, Tensor], total: int) -> None:
        self.tensors = tensors
        self.total = max(total, 1)

    @torch.no_grad()
    def follow(self, tensors: Mapping[str, Tensor], iteration: int) -> None:
        """Take in the weights after iteration 0..total-1."""
        fresh = 1.0 - min(max(iteration / self.total, 0.0), 1.0)
        for name, mean in self.tensors.items():
            if mean.is_floating_point():
                mean.lerp_(tensors[name].detach(), fresh)
            else:
                mean.copy_(tensors[name])
