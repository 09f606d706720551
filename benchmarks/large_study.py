"""A study with thousands of finished trials: a worker's first look, what it keeps in memory, and what an ask takes.

    OMP_NUM_THREADS=1 python -m benchmarks.large_study --trials 5000 --reports 50
    OMP_NUM_THREADS=1 python -m benchmarks.large_study --trials 20000 --reports 50 --growth

The trials are drawn into an SQLite file by plain statements: nine parameters, two in five COMPLETE, the others PRUNED.
The first look is taken by this program's reading and by Optuna's own, by turns; memory is what Python holds after it
(tracemalloc), in a look of its own. An ask is claim, suggestion and commit by TPE along a front of two widths; beside
it the same sampler on the same trials in Optuna's memory, and asks whose parameters were drawn before, as a worker does
while students train: what a free slot waits for. CPU time; of the last wall time, too.

--growth measures one thing alone: what the resident memory of a process grows by for each trial that it reads beyond
the first 200, by either reading, in a process each.
"""

import argparse
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

from benchmarks.trial_start import STUDY, TRIALS
from search.commands.simulate import simulated_identity
from search.proposing.builders import sampler_of
from search.proposing.ranges import distributions, front_first, suggest
from search.spec.load import load
from search.storage.database import open_storage
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from search.study.create import open_search
from trainer.cli.entry import guard

ASKS = 16


def fill(search: StudyAdapter, study_id: int, trials: int, reports: int) -> None:
    """Draw the rows of finished trials into Optuna's tables."""
    draw = np.random.default_rng(0)
    ranges = distributions(search.spec.main)
    tables = {model: model.__table__ for model in vars(models).values() if hasattr(model, "__table__")}
    ends = draw.random(trials)
    ids = range(1, trials + 1)
    states = [TrialState.COMPLETE if end < 0.4 else TrialState.PRUNED for end in ends]
    curves = 0.9 - 0.4 * ends[:, None] * 0.9 ** np.arange(1, reports + 1)
    now = datetime.now()
    own = dict(study_id=study_id, datetime_start=now, datetime_complete=now)
    with search.opened.engine.begin() as connection:

        def put(model: Any, rows: list[dict[str, Any]]) -> None:
            connection.execute(sa.insert(tables[model]), rows)

        put(models.TrialModel, [dict(trial_id=i, number=i - 1, state=states[i - 1], **own) for i in ids])
        for name, kind in ranges.items():
            text = distribution_to_json(kind)
            values = (
                draw.integers(2, size=trials) if hasattr(kind, "choices") else draw.uniform(kind.low, kind.high, trials)
            )  # type: ignore[attr-defined]
            rows = [
                dict(trial_id=i, param_name=name, param_value=float(values[i - 1]), distribution_json=text) for i in ids
            ]
            put(models.TrialParamModel, rows)
        for step in range(reports):
            scores = [dict(trial_id=i, step=step + 1, intermediate_value=float(curves[i - 1, step])) for i in ids]
            put(models.TrialIntermediateValueModel, [row | dict(intermediate_value_type="FINITE") for row in scores])
        finals = [dict(trial_id=i, objective=0, value=float(curves[i - 1, -1]), value_type="FINITE") for i in ids]
        put(models.TrialValueModel, finals)
        for key, value in (("host", '"gpu1"'), ("params", "123456"), ("student", '"unet width 8"')):
            put(models.TrialUserAttributeModel, [dict(trial_id=i, key=key, value_json=value) for i in ids])


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(search: StudyAdapter, study_id: int, trials: int) -> None:
    """Print the kilobytes a trial, by this program's reading and by Optuna's."""
    backend: Any = search.opened.storage._backend  # type: ignore[attr-defined]
    search.opened.engine.dispose()
    for name, reading in (("this program's", type(backend)._get_trials), ("Optuna's", RDBStorage._get_trials)):
        child = os.fork()
        if child == 0:
            first = reading(backend, study_id, None, set(range(1, 201)), 10**9)
            before = resident()
            rest = reading(backend, study_id, None, set(), 200)
            kept = (resident() - before) / len(rest) / 1000
            print(f"{name} reading: {kept:.1f} kB a trial from {len(first)} to {trials}", flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            raise RuntimeError(f"{name} reading failed")


def cpu(action: Callable[[], object]) -> float:
    """Seconds of CPU time."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def ask(search: StudyAdapter) -> None:
    """A trial begins, and ends so that it tells the sampler nothing."""
    claim = search.claim(Owner("me", "here"), lambda _: 0, ())
    search.suggest(claim)
    search.commit(claim, "{}", "{}")
    search.fail(claim.held, "bug", "none")


def ahead(search: StudyAdapter) -> list[tuple[float, float]]:
    """Seconds of asks whose parameters were drawn before, of CPU and of wall time."""
    took = []
    ask(search)  # makes the worker known to the study
    for _ in range(ASKS):
        while search.propose():
            pass
        begun = time.perf_counter()
        took.append((cpu(lambda: ask(search)), time.perf_counter() - begun))
    return took


def in_memory(search: StudyAdapter) -> list[float]:
    """Seconds of the sampler alone."""
    arm, storage = search.spec.main, InMemoryStorage()
    study = optuna.create_study(storage=storage, direction="maximize", sampler=sampler_of(arm))
    for trial in search.trials(arm):
        if trial.state.is_finished():
            storage.create_new_trial(study._study_id, template_trial=trial)

    def one() -> None:
        trial = optuna.trial.Trial(study, storage.create_new_trial(study._study_id))
        for parameter in front_first(arm):
            suggest(trial, parameter)
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    return [cpu(one) for _ in range(ASKS)]


def main() -> int:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--reports", type=int, default=50)
    parser.add_argument("--growth", action="store_true", help="measure what a trial adds to a worker's memory, alone")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file, url = Path(folder) / "large.toml", f"sqlite:///{folder}/large.db"
        file.write_text(STUDY.replace(f"trials = {TRIALS}", "trials = 1000000\nmax_failed = 1000000"))
        spec = load(file)
        search = open_search(open_storage(url), url, spec, simulated_identity(spec))
        (study_id,) = search.arms
        fill(search, study_id, args.trials, args.reports)
        if args.growth:
            growth(search, study_id, args.trials)
            return 0
        storage: Any = search.opened.storage
        looks: dict[str, list[float]] = {"own": [], "optuna": []}
        for _ in range(3):
            looks["own"].append(cpu(lambda: storage._backend._get_trials(study_id, None, set(), -1)))
            looks["optuna"].append(cpu(lambda: RDBStorage._get_trials(storage._backend, study_id, None, set(), -1)))
        tracemalloc.start()
        search.trials(spec.main)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        print(f"first look: {min(looks['own']):.2f} s, by Optuna's own reading {min(looks['optuna']):.2f} s")
        print(f"kept: {held / args.trials / 1000:.1f} kB a trial")
        asks = [cpu(lambda: ask(search)) for _ in range(ASKS)]
        drawn, walls = zip(*ahead(search), strict=True)
        rows = {"ask": asks, "sampler": in_memory(search), "ask, drawn ahead": drawn, "the same, wall": walls}
        for name, seconds in rows.items():
            middle, late = np.quantile(1e3 * np.array(seconds), [0.5, 0.95])
            print(f"{name}: median {middle:.0f} ms, p95 {late:.0f} ms")
        search.opened.engine.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
