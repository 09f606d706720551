"""What a worker takes of the database, and that what is stored is what was trained."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from search.study.adapter import StudyAdapter
from trainer.config import RunConfig

OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND backend_type = 'client backend'"
)


def test_a_group_of_ranks_takes_two_connections_at_most(
    join: Callable[..., StudyAdapter], tmp_path: Path, postgres_url: str, tools: SimpleNamespace
) -> None:
    search = join()
    counted: list[int] = []
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:

        def others() -> int:
            return int(connection.execute(sa.text(OTHERS)).scalar_one())

        def count() -> None:
            end = time.monotonic() + 10
            while (found := others()) > 2 and time.monotonic() < end:
                time.sleep(0.05)  # a backend whose client has gone is there for a moment longer
            counted.append(found)

        tools.InProcess(search, tmp_path, slots=4, at=dict.fromkeys(range(tools.EPOCHS * 2), count)).run()
    assert len(counted) >= tools.EPOCHS
    assert 1 <= max(counted) <= 2, counted


@pytest.mark.parametrize(
    ("pruner", "each"),
    [
        ("none", 6),  # a report 5, naming its checkpoint 1
        ("median", 19),  # and a verdict 13
    ],
)
def test_an_epoch_of_a_trial_costs_few_statements_however_long_the_trial(
    open_again: Callable[..., StudyAdapter],
    tmp_path: Path,
    postgres_url: str,
    tools: SimpleNamespace,
    pruner: str,
    each: int,
) -> None:
    counted = []
    for epochs in (4, 8, 16):
        study = tools.STUDY.replace(f"epochs = {tools.EPOCHS}", f"epochs = {epochs}")
        changes = [f"pruner.name={pruner}", "budget.trials=2"]
        search = open_again(postgres_url, f"epochs-{epochs}", study, *changes)
        statements = 0

        def count(*_: object) -> None:
            nonlocal statements
            statements += 1

        sa.event.listen(search.opened.engine, "before_cursor_execute", count)
        tools.InProcess(search, tmp_path / str(epochs)).run()
        counted.append(statements)
    costs = [(counted[1] - counted[0]) / (2 * 4), (counted[2] - counted[1]) / (2 * 8)]
    assert costs == [each, each]


def test_the_stored_parameters_are_those_that_were_trained_to_the_last_bit(
    join: Callable[..., StudyAdapter], tmp_path: Path, tools: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = join()
    trained: dict[int, RunConfig] = {}
    worker = tools.InProcess(search, tmp_path)
    admit = worker.students.admit

    def note(key: int, run: RunConfig, *resume: Any) -> None:
        trained[key] = run
        admit(key, run, *resume)

    monkeypatch.setattr(worker.students, "admit", note)
    worker.run()
    stored = {trial._trial_id: trial.params["optim.lr"] for trial in search.trials(search.spec.main)}
    assert len(stored) == tools.TRIALS
    assert stored == {key: run.optim.lr for key, run in trained.items()}
