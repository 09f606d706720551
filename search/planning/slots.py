"""`--slots auto`: how many students a group trains side by side, from a few timed steps of what the space holds."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from search.planning.limits import costs
from search.spec.load import StudySpec
from trainer.errors import one_line
from trainer.profiling.slots import choose, epoch_seconds, forecast

if TYPE_CHECKING:
    from trainer.distributed.ranks import Ranks

AUTO = "auto"
FALLBACK = 4
"""Students side by side where nothing could be measured."""


@dataclass(frozen=True)
class Slots:
    """Students side by side."""

    count: int
    forecast: tuple[float, float] | None = None
    """Seconds of an epoch of so many of the smallest and of the largest kind; None where nothing was measured."""


def choose_slots(spec: StudySpec, *, cache: Path, ranks: "Ranks") -> Slots:
    """What the rule of `trainer.profiling.slots` says for this study on this machine, with its forecast in the log.

    Every rank calls it; the lead measures. What cannot be measured, such as a student that needs more memory than there
    is, is said aloud and ends in `FALLBACK`: its trial will say more.
    """
    chosen = Slots(FALLBACK)
    if ranks.leads:
        try:
            chosen = _measured(spec, cache, ranks)
        except Exception as error:  # noqa: BLE001 - a search is not worth less because its costs are not known yet
            why = one_line(f"{type(error).__name__}: {error}")
            logger.warning("--slots auto: not measured ({}); {} students at a time", why, FALLBACK)
    return ranks.share(chosen)


def _measured(spec: StudySpec, cache: Path, ranks: "Ranks") -> Slots:
    from trainer.profiling.step_timing import measure

    built = sorted(costs(spec), key=lambda cost: cost.facts.flops)
    taught = [cost.run for cost in built if cost.run.methods()]
    found = measure(built[0].run, built[-1].run, taught[-1] if taught else None, cache=cache, ranks=ranks)
    # Groups of one torchrun share what may be in flight; what other workers take is not known here.
    in_flight = math.ceil(sum(arm.in_flight for arm in spec.arms) / ranks.groups)
    chosen = choose(found, in_flight=in_flight)
    logger.info("--slots auto: {} at a time: {}", chosen.slots, chosen.because)
    trials = sum(arm.trials for arm in spec.arms)
    for line in forecast(found, chosen.slots, epochs=spec.run.epochs, trials=trials, ranks=ranks.world):
        logger.info("forecast: {}", line)
    return Slots(chosen.slots, epoch_seconds(found, chosen.slots))
