"""What each loss term moved: its share of the gradient, as trials recorded it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from search.report.content.document import Share
from search.study.trial_attributes import DEAD, SHARES


def shares_of(trials: Sequence[Any]) -> Iterator[Share]:
    """Each loss term over the trials that were trained to their end and recorded it."""
    found: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.state.name == "COMPLETE":
            for name, value in trial.user_attrs.get(SHARES, {}).items():
                found[name].append(float(value))
    for term, values in sorted(found.items()):
        yield Share(term=term, trials=len(values), median=median(values), dead=sum(v < DEAD for v in values))
