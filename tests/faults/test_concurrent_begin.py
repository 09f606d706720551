"""Many at once: workers on an empty database, two studies under one name, and trials enqueued while others pop them."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from search.commands.simulate import simulated_identity
from search.spec.load import load
from search.storage.database import open_storage
from search.storage.statements import Owner, Refused
from search.study.adapter import StudyAdapter
from search.study.create import open_search
from trainer.errors import UserError

MANY = 32
SOME = 16
Join = Callable[..., StudyAdapter]


def _all_at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What each of `count` threads returns or raises; they begin together."""
    gate = threading.Barrier(count)

    def one(index: int) -> Any:
        gate.wait(30)
        try:
            return work(index)
        except (UserError, Refused) as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_thirty_two_begin_on_an_empty_database(postgres_url: str, tmp_path: Path, tools: SimpleNamespace) -> None:
    """Each opens a storage of its own, as a process does: one study comes of it, and each takes a trial of its own."""
    file = tmp_path / "faults.toml"
    file.write_text(tools.STUDY)
    spec = load(file, [f"budget.trials={MANY}", f"budget.in_flight={MANY}"])

    def begin(index: int) -> tuple[int, int]:
        opened = open_storage(postgres_url)
        try:
            search = open_search(opened, postgres_url, spec, simulated_identity(spec))
            claim = search.claim(Owner(f"w{index}", "here"), lambda _: 0, ())
            return search.search_id, claim.held.number
        finally:
            opened.engine.dispose()

    found = _all_at_once(MANY, begin)
    assert {search_id for search_id, _ in found} == {found[0][0]}
    assert sorted(number for _, number in found) == list(range(MANY))


def test_two_studies_under_one_name_begin_at_once_and_one_is_refused(
    database_url: str, tmp_path: Path, tools: SimpleNamespace
) -> None:
    """Whoever comes first has the name; all others of the other kind get the difference in one line."""
    specs = []
    for folder, text in (("a", tools.STUDY), ("b", tools.STUDY.replace("epochs = 5", "epochs = 6"))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "faults.toml").write_text(text)
        specs.append(load(tmp_path / folder / "faults.toml"))

    def begin(index: int) -> int:
        opened = open_storage(database_url)
        try:
            spec = specs[index % 2]
            return open_search(opened, database_url, spec, simulated_identity(spec)).spec.run.epochs
        finally:
            opened.engine.dispose()

    found = _all_at_once(8, begin)
    refused = [str(each) for each in found if isinstance(each, UserError)]
    assert len(refused) == 4
    assert len({each for each in found if isinstance(each, int)}) == 1
    assert all("another identity: run.epochs" in line and "\n" not in line for line in refused)


def test_each_enqueued_trial_is_handed_out_once_while_others_are_enqueued(
    database_url: str, open_again: Join, tools: SimpleNamespace
) -> None:
    """By sixteen at once, half of whom enqueue while the others take."""
    half = SOME // 2
    changes = [f"budget.trials={5 * half}", f"budget.in_flight={5 * half}"]  # room for all that are enqueued or taken
    searches = [open_again(database_url, "faults", tools.STUDY, *changes) for _ in range(SOME)]
    wanted = [10 ** (-4 + 2 * index / (2 * half)) for index in range(2 * half)]

    def work(index: int) -> list[float]:
        search = searches[index]
        if index < half:
            for lr in wanted[2 * index : 2 * index + 2]:
                search.enqueue(search.spec.main, {"optim.lr": lr})
            return []
        taken = []
        for _ in range(3):
            claim = search.claim(Owner(f"w{index}", "here"), lambda _: 0, ())
            taken.append(float(search.suggest(claim)["optim.lr"]))
        return taken

    found = [lr for each in _all_at_once(SOME, work) for lr in each]
    eye = searches[0]
    while True:  # what was enqueued last is still waiting
        try:
            claim = eye.claim(Owner("last", "here"), lambda _: 0, ())
        except Refused:
            break
        found.append(float(eye.suggest(claim)["optim.lr"]))
    counts = Counter(found)
    assert [counts[lr] for lr in wanted] == [1] * len(wanted)
    assert len(found) == 5 * half
    with eye.opened.engine.begin() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM kd_lease")).scalar_one() == 5 * half


def test_an_answer_that_is_lost_queues_a_trial_once(
    join: Callable[..., StudyAdapter], postgres_url: str, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna repeats a creation whose answer did not come; the server had it each time."""
    monkeypatch.setattr("random.random", lambda: 0.02)  # Optuna waits twice as long, in seconds, between its tries
    away = proxy(postgres_url)
    search = join(url=away.url)
    search.opened.engine.dispose()
    away.lose_every = 2
    for _ in range(5):
        search.enqueue(search.spec.main, {"optim.lr": 1e-2})
    away.lose_every = None
    assert away.lost_answers >= 1
    search.opened.engine.dispose()
    assert len(search.trials(search.spec.main)) == 5
