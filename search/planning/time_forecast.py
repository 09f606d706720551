"""How long a search and its confirmation will take, from a few seconds of timed steps on this machine."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from search.planning.network_costs import Cost
from search.spec.load import StudySpec
from trainer.cli.durations import format_duration
from trainer.config import RunConfig
from trainer.profiling.slots import USUAL

if TYPE_CHECKING:
    from trainer.data.dataset import DataSet
    from trainer.profiling.quick_timing import QuickTimings


@dataclass(frozen=True)
class TimeForecast:
    """Seconds on one worker of one process; pairs are for the smallest and for the largest students of the space."""

    device: str
    """What was measured, in words."""
    epoch_seconds: tuple[float, float]
    """One epoch of one trial among `USUAL`."""
    trials: int
    search_seconds: tuple[float, float]
    """All trials to their last epoch: none pruned."""
    trainings: int | None
    """How many networks a confirmation trains; None without one."""
    confirm_seconds: tuple[float, float] | None

    def as_json(self) -> dict[str, Any]:
        """The form that `validate --json` prints."""
        return asdict(self)


def time_forecast(
    spec: StudySpec,
    built: Sequence[Cost],
    data: "DataSet",
    *,
    trainings: int | None,
    seconds: float = 5.0,
) -> TimeForecast:
    """Measure for about `seconds`, and scale. built: the study's networks; trainings: of the confirmation.

    Raises what building a network raises, and DataError.
    """
    import torch

    from trainer.profiling.quick_timing import measure_quickly

    in_order = sorted(built, key=lambda cost: cost.facts.flops)
    taught = [cost.run for cost in in_order if cost.run.methods()]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    timings = measure_quickly(
        in_order[0].run, in_order[-1].run, taught[-1] if taught else None, data, device=device, seconds=seconds
    )
    return scaled(spec, taught[-1] if taught else None, timings, trainings)


def scaled(spec: StudySpec, taught: RunConfig | None, timings: "QuickTimings", trainings: int | None) -> TimeForecast:
    """What follows from timings; an arm whose runs have no teacher does not wait for one."""
    with_teacher, without = timings.epoch_seconds(USUAL), timings.without_teacher().epoch_seconds(USUAL)
    epochs = [(arm.trials * arm.epochs, bool(arm.base.methods()) and taught is not None) for arm in spec.arms]
    low, high = (
        sum(count * (with_teacher if listens else without)[end] for count, listens in epochs) for end in (0, 1)
    )
    each = [with_teacher[end] * spec.run.epochs for end in (0, 1)]
    return TimeForecast(
        device=timings.device,
        epoch_seconds=with_teacher,
        trials=sum(arm.trials for arm in spec.arms),
        search_seconds=(low, high),
        trainings=trainings,
        confirm_seconds=None if trainings is None else (each[0] * trainings, each[1] * trainings),
    )


def describe_time(forecast: TimeForecast) -> tuple[str, str]:
    """The forecast in two lines."""
    parts = [f"{forecast.trials} trials about {duration_range(forecast.search_seconds)} if none is pruned"]
    if forecast.confirm_seconds is not None:
        parts.append(f"confirmation of {forecast.trainings} trainings {duration_range(forecast.confirm_seconds)}")
    return (
        ", ".join(parts),
        f"one worker, {USUAL} at a time, measured here on {forecast.device}; another machine needs another time",
    )


def duration_range(pair: Sequence[float]) -> str:
    """`3 h 20 min to 5 h 0 min`, or one of them where they are the same."""
    low, high = format_duration(pair[0]), format_duration(pair[1])
    return low if low == high else f"{low} to {high}"
