"""Rows of the database and tables of the report as pandas data frames."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from search.report.table_formats import Table
from search.storage.leases import LeaseDetails
from search.study.outcomes import pruned, trained_to_end
from search.study.snapshot import SearchSnapshot
from trainer.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from optuna.trial import FrozenTrial


def trial_frame(rows: SearchSnapshot) -> "pd.DataFrame":
    """One row a trial of each arm, in the order of their numbers: see `Study.trials`."""
    return _frame(list(_trials(rows)))


def epoch_frame(rows: SearchSnapshot) -> "pd.DataFrame":
    """One row an epoch that was reported: arm, trial, epoch, score."""
    columns = ["arm", "trial", "epoch", "score"]
    reported = (
        (arm, trial.number, epoch, score)
        for arm, each in rows.trials.items()
        for trial in each
        for epoch, score in sorted(trial.intermediate_values.items())
    )
    return _frame(list(reported), columns)


def table_frame(table: Table) -> "pd.DataFrame":
    """A table of the report; the columns have the names that its CSV has, and empty cells are missing values."""
    return _frame(list(table.rows), [column.title for column in table.columns])


def _frame(rows: Sequence[Any], columns: list[str] | None = None) -> "pd.DataFrame":
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise UserError('data frames need pandas, which is not installed; pip install ".[api]"') from error
    return pd.DataFrame(rows, columns=columns)


def _trials(rows: SearchSnapshot) -> Iterator[dict[str, Any]]:
    sizes = rows.params_m()
    for arm, each in rows.trials.items():
        leases = {lease.number: lease for lease in rows.leases[arm]}
        for trial in each:
            yield {"arm": arm, "trial": trial.number, **_row(trial, leases.get(trial.number), sizes)} | trial.params


def _row(trial: "FrozenTrial", lease: LeaseDetails | None, sizes: dict[int, float]) -> dict[str, Any]:
    return {
        "state": _state(trial, lease),
        "score": None if lease is None else lease.best_score,
        "epoch": None if lease is None else lease.best_epoch,
        "params_m": sizes.get(trial._trial_id),
        "device_seconds": None if lease is None else lease.gpu_seconds,
        "failure": None if lease is None else lease.failure,
        "scores": None if lease is None or lease.scores is None else json.loads(lease.scores),
    }


def _state(trial: "FrozenTrial", lease: LeaseDetails | None) -> str:
    """complete, pruned, failed, running or waiting."""
    if lease is not None and lease.failure is not None:
        return "failed"
    if lease is not None and trained_to_end(lease):
        return "complete"
    if lease is not None and pruned(lease):
        return "pruned"
    return {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())
