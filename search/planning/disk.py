"""How much room checkpoints take, forecast from parameters alone. Free of torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from search.spec.arms import Arm
from search.spec.load import StudySpec
from search.spec.strategies import PausingConfig

_FLOAT = 4
"""Bytes of a weight: checkpoints are fp32 whatever the precision of a run."""
_MOMENTS = {"sgd": 1, "adam": 2, "adamw": 2}
"""Numbers that an optimizer keeps for each weight."""


def state_bytes(params: float, *, optimizer: str, ema: bool) -> float:
    """A running trial's checkpoint: weights, those of its best epoch, the optimizer's moments, and the average."""
    return params * _FLOAT * (2 + _MOMENTS[optimizer] + ema)


def weights_bytes(params: float) -> float:
    """What a finished trial leaves."""
    return params * _FLOAT


@dataclass(frozen=True)
class DiskForecast:
    """Bytes at most."""

    kept_bytes: float
    """Those of the weights that stay."""
    running_bytes: float
    """Those of the checkpoints of trials in flight, and of paused ones."""


def disk_forecast(spec: StudySpec, largest: Sequence[float]) -> DiskForecast:
    """What trials write. largest: millions of parameters of each arm's largest network.

    At most, because each trial is taken for the largest network of its arm and none is pruned. Adapters of losses and
    statistics of normalisation are left out: about one part in a hundred.
    """
    kept = running = 0.0
    for arm, params_m in zip(spec.arms, largest, strict=True):
        params = params_m * 1e6
        state = max(state_bytes(params, optimizer=name, ema=ema) for name in _optimizers(arm) for ema in _ema(arm))
        kept += arm.trials * weights_bytes(params)
        # The next epoch's file is written beside the last one.
        flying = min(arm.in_flight, arm.trials)
        running += flying * 2 * state
        if isinstance(arm.pruner, PausingConfig):
            running += (arm.trials - flying) * state  # all others may be paused at once
    return DiskForecast(kept, running)


def _optimizers(arm: Arm) -> set[str]:
    return {str(value) for value in _values(arm, "optim.name")} or {arm.base.optim.name}


def _ema(arm: Arm) -> set[bool]:
    return {bool(value) for value in _values(arm, "optim.ema")} or {arm.base.optim.ema}


def _values(arm: Arm, path: str) -> list[object]:
    return [value for parameter in arm.space if parameter.path == path for value in parameter.probes()]


def format_bytes(size: float) -> str:
    """A size for people: 24 GB, 310 MB."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{max(size, 1e6) / 1e6:.0f} MB"
