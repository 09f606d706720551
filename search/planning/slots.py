"""`--slots auto`: how many students a group trains side by side, from a few timed steps of what the space holds.

Each trial keeps the forecast, so that `status` can compare it with what happened.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from loguru import logger

from search.planning.network_costs import costs
from search.spec.load import StudySpec
from search.storage.leases import LeaseDetails
from trainer.errors import counted, one_line
from trainer.profiling.slots import USUAL, choose, epoch_seconds, forecast

if TYPE_CHECKING:
    from trainer.engine.resources import SharedResources


@dataclass(frozen=True)
class Slots:
    """Students side by side."""

    count: int
    forecast: tuple[float, float] | None = None
    """Seconds of an epoch of so many of the smallest and of the largest kind; None where nothing was measured."""


def choose_slots(spec: StudySpec, resources: "SharedResources") -> Slots:
    """What the rule of `trainer.profiling.slots` says for this study on this machine, with its forecast in the log.

    Every rank calls it; the lead measures. What cannot be measured, such as a student that needs more memory than there
    is, is logged and ends in `USUAL`: its trial's failure says more.
    """
    ranks, chosen = resources.ranks, Slots(USUAL)
    if ranks.leads:
        try:
            chosen = _measured(spec, resources)
        except Exception as error:  # noqa: BLE001 - a search is not worth less because its costs are not known yet
            why = one_line(f"{type(error).__name__}: {error}")
            logger.warning("--slots auto: not measured ({}); {} students at a time", why, USUAL)
    return ranks.broadcast(chosen)


def _measured(spec: StudySpec, resources: "SharedResources") -> Slots:
    from trainer.profiling.step_timing import measure

    built = sorted(costs(spec), key=lambda cost: cost.facts.flops)
    taught = [cost.run for cost in built if cost.run.methods()]
    timings = measure(built[0].run, built[-1].run, taught[-1] if taught else None, resources)
    ranks = resources.ranks
    # Groups of one torchrun share what may be in flight; what other workers take is not known here.
    in_flight = math.ceil(sum(arm.in_flight for arm in spec.arms) / ranks.groups)
    chosen = choose(timings, in_flight=in_flight)
    logger.info("--slots auto: {} at a time: {}", chosen.slots, chosen.because)
    trials = sum(arm.trials for arm in spec.arms)
    for line in forecast(timings, chosen.slots, epochs=spec.run.epochs, trials=trials, ranks=ranks.world):
        logger.info("forecast: {}", line)
    return Slots(chosen.slots, epoch_seconds(timings, chosen.slots))


FORECAST = "forecast"
"""In a trial's environment: the forecast of the worker that began it."""


def kept(low: float, high: float, slots: int) -> dict[str, Any]:
    """What a trial keeps. low, high: seconds of an epoch of so many students, all of the smallest or largest kind."""
    return {"slots": slots, "epoch_seconds": [low, high]}


def without(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What of an environment may change a run's numbers."""
    return {name: value for name, value in environment.items() if name != FORECAST}


class Took(NamedTuple):
    """One quantity as it was forecast and as it was."""

    low: float
    """Forecast for the smallest kind of students."""
    high: float
    """Forecast for the largest kind."""
    took: float

    def as_json(self) -> dict[str, Any]:
        """The form that `status --json` prints."""
        return {"forecast": [self.low, self.high], "took": self.took}


@dataclass(frozen=True)
class ForecastCheck:
    """The forecast beside what happened, over the epochs of the trials that have a forecast."""

    epochs: int
    epoch_seconds: Took
    """Wall time for one epoch of one trial, its share where several train side by side."""
    device_hours: Took

    def as_json(self) -> dict[str, Any]:
        """The form that `status --json` prints."""
        return {
            "epochs": self.epochs,
            "epoch_seconds": self.epoch_seconds.as_json(),
            "device_hours": self.device_hours.as_json(),
        }


def compared(leases: Sequence[LeaseDetails]) -> ForecastCheck | None:
    """Forecast and truth over the epochs of the trials that have a forecast; None without any.

    An epoch that had to be trained again counts once with all its seconds, and of a trial that runs one whose
    checkpoint is still being written counts with its seconds alone.
    """
    low = high = took = hours_low = hours_high = hours = 0.0
    epochs = 0
    for lease in leases:
        environment = json.loads(lease.environment or "{}")
        planned = environment.get(FORECAST)
        if planned is None or lease.epoch == 0:
            continue
        ends = [seconds / planned["slots"] * lease.epoch for seconds in planned["epoch_seconds"]]
        ranks = environment.get("ranks", 1)
        epochs += lease.epoch
        low, high, took = low + ends[0], high + ends[1], took + lease.gpu_seconds / ranks
        hours_low, hours_high = hours_low + ends[0] * ranks / 3600, hours_high + ends[1] * ranks / 3600
        hours += lease.gpu_seconds / 3600
    if not epochs:
        return None
    return ForecastCheck(
        epochs=epochs,
        epoch_seconds=Took(low / epochs, high / epochs, took / epochs),
        device_hours=Took(hours_low, hours_high, hours),
    )


def line(check: ForecastCheck) -> str:
    """`compared` as a person reads it."""
    epoch, hours = check.epoch_seconds, check.device_hours
    return (
        f"forecast of --slots auto for {counted(check.epochs, 'epoch')}: "
        f"{_range(epoch)} s a trial's epoch, "
        f"{_range(hours)} device hours; took {epoch.took:.3g} s, {hours.took:.3g} device hours"
    )


def _range(value: Took) -> str:
    return f"{value.low:.3g} to {value.high:.3g}"
