"""A search that an older version began: today's program takes it for the same one and brings it to its end.

The search lies in tests/fixtures/search-9f9c9df, whose README says how it was made. What is asked here is asked of
commands and of the database, so that modules may move without a change of this file.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from search.spec.identity import arm_identity
from search.spec.load import load

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "search-9f9c9df"
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text())
BUDGETS = {"kd": 6, "no-kd": 2}
ENQUEUED = {"student": 4, "lr": 0.03}
"""What the person asked of the trial that waits: the width of its student, and its learning rate."""

Command = Callable[..., Any]


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A copy of the search: its folder.

    The database names files by absolute paths, since a worker may start in any folder. The copy lies elsewhere, so the
    old folder's name is replaced in it, as a person does who moves a search; nothing else is touched.
    """
    folder = tmp_path / "search"
    shutil.copytree(FIXTURE, folder)
    with closing(sqlite3.connect(folder / "search.db")) as database, database:
        for column in ("checkpoint", "weights"):
            place = f"substr({column}, instr({column}, '/runs/'))"
            database.execute(
                f"update kd_lease set {column} = ? || {place} where {column} is not null",  # noqa: S608
                (str(folder),),
            )
    return folder


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'search.db'}"


def asked(folder: Path, query: str, *given: object) -> list[dict[str, Any]]:
    """The rows of a query."""
    with closing(sqlite3.connect(folder / "search.db")) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query, given)]


def trials(folder: Path) -> list[dict[str, Any]]:
    """All trials by arm and number, as expected.json has them."""
    return asked(
        folder,
        "select a.name as arm, t.number, t.state, l.state as lease, l.epoch, l.token from trials t "
        "join kd_arm a using (study_id) left join kd_lease l using (trial_id) order by a.name, t.number",
    )


def one(folder: Path, columns: str, number: int) -> dict[str, Any]:
    """Columns of the lease of a trial of the main search."""
    (row,) = asked(
        folder,
        f"select {columns} from kd_lease l join kd_arm a using (study_id) where a.name = 'kd' and number = ?",  # noqa: S608
        number,
    )
    return row


def exported(folder: Path, module: Command) -> dict[str, Any]:
    """What `search export` says of the search."""
    module("search", "export", "small", "--top", "9", "--storage", url(folder), "-o", folder / "best.json", cwd=folder)
    document: dict[str, Any] = json.loads((folder / "best.json").read_text())
    return document


def as_expected(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An exported configuration, as far as expected.json has it: sizes in parameters, files from the folder."""
    found = entry | {"params": entry["size"]["params"], "weights": str(Path(entry["weights"]).relative_to(folder))}
    return {key: found[key] for key in EXPECTED["best"][0]}


def test_its_identity_is_the_one_that_it_was_begun_with(begun: Path, module: Command) -> None:
    """Of the study and of each arm, from today's reading of file, data and teacher."""
    words = ("small.toml", "--json", "--no-timing", "--cache", begun / "cache", "--storage", url(begun))
    found = json.loads(module("search", "validate", *words, cwd=begun).stdout)
    contents = {"data_hash": found["data"]["content"], "teacher_hash": found["teacher"]["sha256"]}
    arms = {arm.name: arm_identity(arm, **contents) for arm in load(begun / "small.toml", []).arms}
    (stored,) = asked(begun, "select identity from kd_search")
    assert found["identity"] == stored["identity"] == EXPECTED["identity"]
    assert arms == {row["name"]: row["identity"] for row in asked(begun, "select name, identity from kd_arm")}
    assert arms == EXPECTED["arms"]
    assert found["stored"]["study"] == "the same"
    assert found["problems"] == []


def test_its_best_configurations_are_exported_as_they_were(begun: Path, module: Command) -> None:
    document = exported(begun, module)
    assert document["study"]["identity"] == EXPECTED["identity"]
    assert [as_expected(entry, begun) for entry in document["best"]] == EXPECTED["best"]
    controls = {arm: as_expected(entry, begun) for arm, entry in document["controls"].items()}
    assert controls == EXPECTED["controls"]
    assert len({entry["value"] for entry in EXPECTED["best"]}) == 2
    assert all(Path(entry["weights"]).is_file() for entry in document["best"])


@pytest.mark.slow
def test_it_is_brought_to_its_end(begun: Path, module: Command) -> None:
    """The trial with a checkpoint goes on from it, the enqueued one is trained, and what was done stays as it was."""
    assert trials(begun) == EXPECTED["trials"]
    checkpoint = one(begun, "checkpoint, epoch", 2)
    assert Path(checkpoint["checkpoint"]).is_file()
    flags = ("--ranks", "1", "--slots", "2", "--note-every", "0", "--runs", begun / "runs", "--cache", begun / "cache")
    done = module("search", "work", "small.toml", "--storage", url(begun), *flags, cwd=begun, timeout=250)
    assert "small ends: every arm has its trials" in done.stderr

    ended = trials(begun)
    assert {arm: [t["number"] for t in ended if t["arm"] == arm] for arm in BUDGETS} == {
        arm: [*range(count)] for arm, count in BUDGETS.items()
    }
    assert {t["state"] for t in ended} <= {"COMPLETE", "PRUNED"}
    assert {t["lease"] for t in ended} == {"finished"}
    former = [t for t in EXPECTED["trials"] if t["lease"] == "finished"]
    assert len(former) == 3
    assert all(t in ended for t in former)
    document = exported(begun, module)
    kept = {entry["trial"]: as_expected(entry, begun) | {"rank": 0} for entry in document["best"]}
    assert all(kept[entry["trial"]] == entry | {"rank": 0} for entry in EXPECTED["best"])

    assert holders(begun, 2) == [(1, 1), (2, checkpoint["epoch"] + 1)]
    assert checkpoint["epoch"] >= 1
    run = json.loads(one(begun, "run", 3)["run"])
    assert {"student": run["student"]["width"], "lr": run["optim"]["lr"]} == ENQUEUED
    assert holders(begun, 3) == [(1, 1)]
    assert reports(begun, 3) >= 1


def holders(folder: Path, number: int) -> list[tuple[int, int]]:
    """The token and the first epoch of each who held a trial of the main search."""
    rows = asked(
        folder,
        "select c.token, c.first_epoch from kd_attempt c join kd_lease l using (trial_id) "
        "join kd_arm a using (study_id) where a.name = 'kd' and l.number = ? order by c.token",
        number,
    )
    return [(row["token"], row["first_epoch"]) for row in rows]


def reports(folder: Path, number: int) -> int:
    """How many epochs of a trial of the main search were scored."""
    (row,) = asked(
        folder,
        "select count(*) as epochs from trial_intermediate_values join kd_lease l using (trial_id) "
        "join kd_arm a using (study_id) where a.name = 'kd' and l.number = ?",
        number,
    )
    return int(row["epochs"])
