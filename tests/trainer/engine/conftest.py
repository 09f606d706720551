"""Small runs and what tests of cohorts do with them: train, compare, look inside."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.fit import fit
from trainer.reports import EpochReport, Failure

DATA = {"name": "blobs", "size": 32, "train": 16, "validation": 6}
PLAIN = {"epochs": 3, "batch_size": 4, "data": DATA, "student": {"name": "unet", "width": 4}, "losses": {"ce": {}}}


def make(**changes) -> RunConfig:
    return RunConfig.model_validate({**PLAIN, **changes})


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> dict[str, object]:
    """A small network trained for one epoch, as a run's teacher table."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    run = make(epochs=1, student={"name": "unet", "width": 6})
    for _ in fit(run, cache=path.parent, export=path, ranks=Ranks("cpu")):
        pass
    return {"name": "unet", "width": 6, "checkpoint": str(path)}


@pytest.fixture(scope="module")
def runs(teacher) -> list[RunConfig]:
    """Four members of one stream that differ in everything else; the first three listen to the teacher."""
    kd = {"teacher": teacher, "method": "kl"}
    return [
        make(
            **kd,
            losses={"ce": {}, "kl": {"temperature": 2.0}, "selfreg": {"weight": 0.5}},
            optim={"name": "adamw", "lr": 3e-3, "weight_decay": 0.01, "ema": True},
        ),
        make(
            **kd | {"method": "kl+at"},
            student={"name": "resunet", "width": 4},
            losses={"dice": {}, "kl": {}, "at": {"taps": ["enc2", "mid"]}},
            optim={"name": "sgd", "lr": 0.05, "clip": 1.0, "schedule": {"name": "poly"}},
        ),
        make(
            **kd,
            student={"name": "unet", "width": 8},
            losses={"ce": {}, "kl": {}},
            optim={"name": "adam", "schedule": {"name": "plateau", "patience": 0}},
        ),
        make(
            epochs=2,
            precision="bf16",
            losses={"bce-dice": {}, "selfreg": {}},
            optim={"schedule": {"name": "cosine", "warmup_epochs": 1}},
        ),
    ]


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    return Cohort(Ranks("cpu"), slots=4, cache=tmp_path)


def exploding() -> RunConfig:
    """A run whose numbers stop being finite in a few steps, by a learning rate that no study file takes."""
    run = make(optim={"name": "sgd", "schedule": {"name": "constant"}})
    return run.model_copy(update={"optim": run.optim.model_copy(update={"lr": 1e30})})


def bare(report):
    """A report without its wall time."""
    return dataclasses.replace(report, seconds={}) if isinstance(report, EpochReport) else report


def train(cohort: Cohort, epochs: int) -> dict[int, list[EpochReport | Failure]]:
    told: dict[int, list[EpochReport | Failure]] = {}
    for _ in range(epochs):
        for key, report in cohort.epoch().items():
            told.setdefault(key, []).append(bare(report))
    return told


def state(cohort: Cohort, key: int = 0):
    return cohort._members[key].trained.state()


def same(first, second) -> bool:
    """Equal bit for bit, through dicts and lists."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return bool(first == second)


def alone(run: RunConfig, cache: Path, epochs: int | None = None):
    """Reports and state of a run in a cohort of its own."""
    cohort = Cohort(Ranks("cpu"), slots=1, cache=cache)
    cohort.admit(0, run)
    return train(cohort, epochs or run.epochs)[0], state(cohort)


@pytest.fixture(scope="module")
def solo(runs, tmp_path_factory):
    """Reports and state of each of the four runs in a cohort of its own, trained once for all tests."""
    return [alone(run, tmp_path_factory.mktemp("solo")) for run in runs]


@pytest.fixture(scope="session", name="make")
def _make() -> Callable[..., Any]:
    """A small run with some other values: `make(epochs=5)`."""
    return make


@pytest.fixture(scope="session", name="exploding")
def _exploding() -> Callable[..., Any]:
    """A run whose numbers stop being finite: `exploding()`."""
    return exploding


@pytest.fixture(scope="session", name="bare")
def _bare() -> Callable[..., Any]:
    """A report without its wall time: `bare(report)`."""
    return bare


@pytest.fixture(scope="session", name="train")
def _train() -> Callable[..., Any]:
    """Train some epochs; the reports of each member: `train(cohort, 3)`."""
    return train


@pytest.fixture(scope="session", name="state")
def _state() -> Callable[..., Any]:
    """The state of a member: `state(cohort, key)`."""
    return state


@pytest.fixture(scope="session", name="same")
def _same() -> Callable[..., Any]:
    """Whether two states are equal bit for bit: `same(first, second)`."""
    return same


@pytest.fixture(scope="session", name="alone")
def _alone() -> Callable[..., Any]:
    """Reports and state of a run in a cohort of its own: `alone(run, cache)`."""
    return alone
