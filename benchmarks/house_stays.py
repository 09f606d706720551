"""Follows two flows of the database thread through the modules of the checkout in whose root this file is run.

A stay is a maximal run of Python calls whose code lies in one module of `search` or `trainer`; what outside packages do
in between ends no stay. One flow is a claim until its start stands in the inbox, the other an epoch's report until the
drop of its pruned trial stands there. `benchmarks/house.py` runs this file and reads its lines: title, tab, figures.
"""

import importlib
import sys
import tempfile
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

PLACES = {
    "load": ("search.spec.load:load", "search.spec:load"),
    "open_storage": ("search.storage.database:open_storage", "search.storage:open_storage"),
    "open_search": ("search.study.create:open_search", "search.joining:open_search"),
    "identity": ("search.commands.simulate:simulated_identity", "search.simulate:simulated_identity"),
    "owner": ("search.storage.statements:Owner", "search.fence:Owner"),
    "held_trials": ("search.execution.held_trials:HeldTrials", "search.members:Members"),
    "settings": ("search.execution.messages:WorkerSettings", "search.events:Settings"),
    "epoch": ("search.execution.messages:EpochDone", "search.events:Told"),
    "drop": ("search.execution.messages:DropTrial", "search.events:Drop"),
    "report": ("trainer.reports:EpochReport",),
}
"""What the flows need -> where it stands, in this version or in the one before modules were moved into packages."""

PRUNER = """
[pruner]
name = "median"
startup = 1
"""


def here(name: str) -> Any:
    for place in PLACES[name]:
        module, _, attribute = place.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"none of {PLACES[name]} is there: add its place to PLACES")


def followed(call: Callable[[], None]) -> list[str]:
    """The modules of search and trainer whose functions were called, one a stay."""
    root, calls = Path.cwd(), []
    begun: set[FrameType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(root) and frame not in begun:
            begun.add(frame)  # a generator that goes on is reported as a call, too, and is none
            place = path.relative_to(root).with_suffix("").parts
            if place[0] in ("search", "trainer"):
                calls.append(".".join(place))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return [module for module, _ in groupby(calls)]


def figures(stays: list[str]) -> str:
    modules = len(set(stays))
    return f"{len(stays)} stays in {modules} modules with {len(stays) - modules} returns"


class Flows:
    """The tests' small search in SQLite with a median pruner, and a worker's held trials, without its thread."""

    def __init__(self, folder: Path) -> None:
        file = folder / "house.toml"
        file.write_text(Path("tests/small.toml").read_text() + PRUNER)
        url, spec = f"sqlite:///{folder / 'study.db'}", here("load")(file)
        self.search = here("open_search")(here("open_storage")(url), url, spec, here("identity")(spec))
        self.owner = here("owner")("house", "here")
        settings = here("settings")(self.owner, 2, folder, 1, {}, breach=lambda _: None)
        self.trials = here("held_trials")(self.search, settings)

    def begin(self) -> tuple[Any, list[str]]:
        """A claimed trial, and the way of its claim."""
        claim = self.search.claim(self.owner, lambda _: 0, ())
        stays = followed(lambda: self.trials.begin(claim))
        self.trials.inbox.get_nowait()
        return claim.held, stays

    def store(self, held: Any, epoch: int, score: float) -> list[str]:
        """The way of one epoch's score."""
        report = here("report")(epoch, epoch - 1, {"dice": score}, {}, {"student": 1.0}, final=epoch == 4)
        message = here("epoch")(held.trial_id, held.token, report)
        return followed(lambda: self.trials.store(message))

    def pruned(self) -> tuple[list[str], list[str]]:
        """The ways of a claim and of a first epoch that is worse than all before."""
        held, begin = self.begin()
        store = self.store(held, 1, 0.1)
        if not isinstance(self.trials.inbox.get_nowait(), here("drop")):
            raise SystemExit("the trial was not pruned")
        return begin, store


def main() -> None:
    from loguru import logger

    logger.remove()
    with tempfile.TemporaryDirectory() as folder:
        flows = Flows(Path(folder))
        first, _ = flows.begin()
        for epoch in range(1, 5):
            flows.store(first, epoch, 0.9)
        flows.pruned()  # once unseen: whatever is imported late is there afterwards
        begin, store = flows.pruned()
    print(f"claim to start\t{figures(begin)}")
    print(f"score to verdict and back\t{figures(store)}")


if __name__ == "__main__":
    main()
