"""The forecast of workers with `--slots auto` beside what happened, from what each trial keeps of it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

FORECAST = "forecast"
"""In a trial's environment: the forecast of the worker that began it."""


def kept(low: float, high: float, slots: int) -> dict[str, Any]:
    """What a trial keeps. low, high: seconds of an epoch of so many students, all of the smallest or largest kind."""
    return {"slots": slots, "epoch_seconds": [low, high]}


def without(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What of an environment may change a run's numbers."""
    return {name: value for name, value in environment.items() if name != FORECAST}


def compared(leases: Sequence[Any]) -> dict[str, Any] | None:
    """Forecast and truth over the epochs of the trials that have a forecast; None without any.

    An epoch that had to be trained again counts once with all its seconds, and of a trial that runs one whose
    checkpoint is still being written counts with its seconds alone. `epoch_seconds`: wall time for one epoch of one
    trial, its share where several train side by side.
    """
    low = high = took = hours_low = hours_high = hours = 0.0
    epochs = 0
    for lease in leases:
        environment = json.loads(lease.environment or "{}")
        told = environment.get(FORECAST)
        if told is None or lease.epoch == 0:
            continue
        ends = [seconds / told["slots"] * lease.epoch for seconds in told["epoch_seconds"]]
        ranks = environment.get("ranks", 1)
        epochs += lease.epoch
        low, high, took = low + ends[0], high + ends[1], took + lease.gpu_seconds / ranks
        hours_low, hours_high = hours_low + ends[0] * ranks / 3600, hours_high + ends[1] * ranks / 3600
        hours += lease.gpu_seconds / 3600
    if not epochs:
        return None
    return {
        "epochs": epochs,
        "epoch_seconds": {"forecast": [low / epochs, high / epochs], "took": took / epochs},
        "device_hours": {"forecast": [hours_low, hours_high], "took": hours},
    }


def line(found: Mapping[str, Any]) -> str:
    """`compared` as a person reads it."""
    epoch, hours = found["epoch_seconds"], found["device_hours"]
    return (
        f"forecast of --slots auto for {found['epochs']} epochs: {_range(epoch['forecast'])} s a trial's epoch, "
        f"{_range(hours['forecast'])} device hours; took {epoch['took']:.3g} s, {hours['took']:.3g} device hours"
    )


def _range(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}"
