"""The best of a search in the five keys that other Optuna projects for polyps keep: `optuna_results.json`."""

import json
from typing import Any

from search.spec.arms import MAIN
from search.study.progress import Rows
from trainer.errors import UserError


def seed_results(rows: Rows) -> dict[str, Any]:
    """params, value, finished_trials, pruned_trials, completed_trials of the main search, in that order.

    Parameters have their names in [space]; a front's choice is one of them. finished: all trials that ended, failed
    ones included. Raises UserError where none was trained to its end.
    """
    trials = rows.trials[MAIN]
    states = [trial.state.name for trial in trials]
    leases = {lease.number: lease for lease in rows.leases[MAIN]}
    whole = [t for t in trials if t.state.name == "COMPLETE" and t.value is not None and leases[t.number].weights]
    if not whole:
        name = rows.search.name
        raise UserError(f"study {name!r}: no trial has finished yet; see: python -m search status {name}")
    sign = 1 if rows.maximize else -1
    best = max(whole, key=lambda trial: (sign * trial.value, -trial.number))
    ended = {state: states.count(state) for state in ("COMPLETE", "PRUNED", "FAIL")}
    return {
        "params": dict(best.params),
        "value": best.value,
        "finished_trials": sum(ended.values()),
        "pruned_trials": ended["PRUNED"],
        "completed_trials": ended["COMPLETE"],
    }


def seed_text(results: dict[str, Any]) -> str:
    """As those projects write it."""
    return json.dumps(results, indent=1, allow_nan=False) + "\n"
