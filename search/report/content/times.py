"""The time of one picture through a network, where a table of measured times says it."""

from collections.abc import Callable, Mapping
from typing import Any

from search.planning.latency import milliseconds
from search.spec.config import Latency
from trainer.config import RunConfig
from trainer.errors import UserError

Times = Callable[[Mapping[str, Any]], float | None]
"""From a complete run, as JSON holds it, to milliseconds; None where they are not known."""


def times(limits: Mapping[str, Any], table: str | None) -> Times:
    """By the table that was named, else by that of the study's limits. Raises UserError for a named one without use.

    A network that the study's own table lacks, and a table that is not on this machine, leave a time unknown.
    """
    if table is not None:
        bound = Latency(max=1.0, table=table)
        return lambda run: milliseconds(bound, RunConfig.model_validate(run))
    if limits.get("latency_ms") is None:
        return lambda _run: None
    bound = Latency.model_validate(limits["latency_ms"])

    def known(run: Mapping[str, Any]) -> float | None:
        try:
            return milliseconds(bound, RunConfig.model_validate(run))
        except UserError:
            return None

    return known
