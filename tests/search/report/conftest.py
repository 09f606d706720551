"""A simulated search of two arms with its report, and what might have been confirmed of it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.answer.build import answer
from search.commands.simulate import simulated_identity
from search.confirm.configurations import Configuration
from search.confirm.results import Confirmed, PerImageScores
from search.execution.database_thread import DatabaseThread
from search.execution.epoch_loop import run_group
from search.execution.group import SingleProcess
from search.execution.messages import WorkerSettings
from search.execution.simulated_students import Curves, SimulatedStudents, plateau
from search.report.content.build import report
from search.report.content.document import Report
from search.report.content.number_format import KINDS, shown
from search.report.content.text import confirmed_text, next_step, unconfirmed
from search.spec.config import Choose
from search.spec.load import load
from search.storage.database import Database, open_storage
from search.storage.evidence import OpeningRecord
from search.storage.statements import Owner
from search.study.adapter import StudyAdapter
from search.study.create import open_search
from search.study.trial_attributes import attribute_builder
from trainer.config import RunConfig
from trainer.reports import PerImageResult

SOURCES = ("Kvasir-SEG", "CVC-ClinicDB")


STUDY = """
[objective]
maximize = "dice"
[front]
along = "student.width"
[limits]
params_m = 1.0
[run]
method = "kl"
epochs = 4
batch_size = 4
data = { name = "blobs", size = 32, train = 8, validation = 4 }
student = { name = "unet" }
teacher = { name = "unet", width = 24, checkpoint = "none.safetensors" }
losses = { ce = {}, kl = {} }
optim = { lr = 1e-3 }
[space]
"student.width" = { choices = [4, 8] }
"optim.lr" = { low = 1e-4, high = 1e-1, log = true }
"losses.kl.weight" = { low = 0.1, high = 10, log = true }
[sampler]
name = "random"
[pruner]
name = "median"
startup = 3
warmup_epochs = 1
[budget]
trials = 16
in_flight = 8
[[arms]]
name = "no-kd"
set = { method = "none" }
trials = 12
"""


def train(found: StudyAdapter, runs: Path) -> None:
    """One simulated worker, to the end of the search or of its confirmation."""
    students = SimulatedStudents(Curves(), slots=4, metric="dice", epoch_seconds=0.0, fail_share=0.05)
    students.measure = examined if found.spec.confirms is not None else None
    owner = Owner("me", "here")
    known = attribute_builder((), None)
    made = WorkerSettings(owner, 4, runs, 1, {"simulated": True}, breach=lambda _: None, ttl=60.0, known=known)
    run_group(SingleProcess(), students, DatabaseThread(found, made))


@pytest.fixture(scope="package")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database in which a simulated search was run to its end."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "polyps.toml").write_text(STUDY)
    spec, url = load(folder / "polyps.toml"), f"sqlite:///{folder / 'study.db'}"
    found = open_storage(url)
    train(open_search(found, url, spec, simulated_identity(spec)), folder / "runs")
    yield found
    found.engine.dispose()


@pytest.fixture(scope="package")
def made(opened: Database) -> Report:
    return report(opened, ["polyps"])


def configuration(name: str, role: Any, score: float, width: int, of: str | None = None) -> Configuration:
    run = {"method": "kl" if role == "winner" else "none", "student": {"name": "unet", "width": width}}
    run["teacher"] = {"name": "unet", "width": 24, "checkpoint": None}
    params = width * width * 8447
    arm = "kd" if role in ("winner", "ablation") else "no-kd"
    rank = 1 if role == "teacher" else int(re.findall(r"\d+", name)[0]) if re.search(r"\d", name) else 1
    trial = rank if role in ("winner", "control") else None
    return Configuration(name, role, arm, of, rank, trial, score + 0.02, params, params / 1.8e5, run)


def measured(each: Configuration, seed: int | None, part: str, score: float, images: int) -> PerImageScores:
    """Images of very different difficulty, the same for all networks, with a little of the seed in each."""
    draw = np.random.default_rng([7, len(part)])
    area = draw.uniform(0.01, 0.3, images)
    hard = draw.normal(0, 0.06, images) - 0.05 * (area < 0.08)
    own = np.random.default_rng([seed or 0, len(each.name), each.params, len(part)])
    dice = np.clip(score + hard + own.normal(0, 0.02, images) + own.normal(0, 0.003), 0, 1)
    ones = np.ones(images)
    columns = {"dice": dice, "iou": dice - 0.08, "precision": dice, "recall": dice, "hd95": 40 * (1 - dice)}
    columns |= {
        "hd95_missed_as_diagonal": 40 * (1 - dice),
        "brier": 0.1 * (1 - dice),
        "area": area,
        "polyps": ones,
        "missed": dice < 0.75,
        "false_positives": 0 * ones,
    }
    bins = [
        (1000.0 * (i == 14) + 30, (1000.0 * (i == 14) + 30) * (i + 0.5) / 15, 1000.0 * (i == 14) + 30 * i / 16)
        for i in range(8, 15)
    ]
    unseen = part not in ("validation", "test")
    return PerImageScores(
        configuration=each.name,
        seed=seed,
        part=part,
        threshold=0.5,
        images=tuple(f"{part}/{i}.png" for i in range(images)),
        sources=tuple(part if unseen else SOURCES[i % 2] for i in range(images)),
        groups=tuple(f"{part}-{i // 2}" for i in range(images)),
        columns={name: tuple(map(float, values)) for name, values in columns.items()},
        calibration=tuple([(0.0, 0.0, 0.0)] * 8 + bins),
        calibration_positive=tuple((60.0, 60.0 * (i + 0.5) / 15, 60.0 * i / 15) for i in range(15)),
    )


def synthetic(gain: float) -> Confirmed:
    """A confirmation in which distillation is worth so much, at every size, and the larger network is the better."""
    rows = [
        (configuration("kd-1", "winner", 0.90, 16), 0.885 + gain),
        (configuration("kd-2", "winner", 0.89, 8), 0.875 + gain),
        (configuration("no-kd-1", "control", 0.88, 16), 0.885),
        (configuration("no-kd-2", "control", 0.87, 8), 0.875),
        (configuration("kd-1-without", "ablation", 0.88, 16, of="kd-1"), 0.884),
        (configuration("defaults", "defaults", 0.86, 16), 0.86),
        (configuration("teacher", "teacher", 0.91, 24), 0.905),
    ]
    found = []
    for each, score in rows:
        for part, images, shift in (("validation", 40, 0.01), ("test", 80, 0.0), ("ETIS-LaribPolypDB", 60, -0.12)):
            seeds = (None,) if each.role == "teacher" else (11, 12, 13, 14, 15)
            found += [measured(each, seed, part, score + shift, images) for seed in seeds]
    opening = OpeningRecord("anna@gpu1", 1.76e9, "confirm polyps", tuple(c.name for c, _ in rows), "u")
    return Confirmed(
        study="polyps",
        objective="dice",
        configurations=tuple(each for each, _ in rows),
        findings=tuple(found),
        budgets={"kd": (16, 16), "no-kd": (12, 12)},
        choose=Choose(margin=0.02),
        openings=(opening,),
        missing=(),
    )


def changed(found: Confirmed, *, without: tuple[str, ...] = (), seeds: int = 5, images: int | None = None) -> Confirmed:
    """A confirmation with fewer networks, seeds or images."""
    kept = [
        each
        for each in found.findings
        if each.configuration not in without and (each.seed is None or each.seed < 11 + seeds)
    ]
    if images is not None:
        cut = slice(0, images)
        kept = [
            replace(
                each,
                images=each.images[cut],
                sources=each.sources[cut],
                groups=each.groups[cut],
                columns={name: values[cut] for name, values in each.columns.items()},
            )
            for each in kept
        ]
    rows = tuple(each for each in found.configurations if each.name not in without)
    return replace(found, configurations=rows, findings=tuple(kept))


def alone(made: Report, *, taught: bool) -> Report:
    """The report of a study that has only its main search."""
    study = made.studies[0]
    main = study.search.arms[0].model_copy(update={"taught": taught})
    equal = tuple(each.model_copy(update={"expected": {"kd": each.expected["kd"]}}) for each in study.search.equal[1:])
    search = study.search.model_copy(update={"arms": (main,), "equal": equal})
    headline, sentences = unconfirmed(search)
    changes = {"search": search, "headline": headline, "answer": sentences, "verdict": "not estimable"}
    return made.model_copy(update={"studies": (study.model_copy(update=changes),)})


def confirmed_study(made: Report, found: Confirmed) -> Report:
    """The report of the search with what was confirmed in the place of its own answer."""
    first = made.studies[0]
    part = answer(found, lambda each: None if each.role == "teacher" else 2.0 * each.gflops)
    headline, sentences, verdict = confirmed_text(first.search, part)
    changes = {"confirmed": part, "headline": headline, "answer": sentences, "verdict": verdict}
    changes["following"] = next_step(first.name, first.search, part, None)
    return made.model_copy(update={"studies": (first.model_copy(update=changes),)})


@pytest.fixture(scope="package")
def gained(made: Report) -> Report:
    return confirmed_study(made, synthetic(0.02))


def examined(run: RunConfig) -> tuple[PerImageResult, ...]:
    """What a simulated network did on images: as good as its curve ends."""
    facts = Configuration("n", "winner", "kd", None, 1, None, None, run.student.width, 1.0, {})
    found = [
        measured(facts, run.seed, part, plateau(run), images) for part, images in (("validation", 24), ("test", 40))
    ]
    own = ("configuration", "seed", "scored")
    return tuple(
        PerImageResult(**{name: value for name, value in vars(each).items() if name not in own}) for each in found
    )


class Reader(HTMLParser):
    """What a page shows and names: numbers with their values, other text, tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[str] = []
        self._value: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)
        self._value = dict(attrs)["value"] if tag == "data" else self._value

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "data" in self._inside:
            assert self._value is not None
            self.numbers.append((self._value, data))
        elif "style" not in self._inside:
            self.text.append(data)


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def unaccounted(html: str, text: str) -> list[str]:
    """Numbers of the page that the JSON does not hold: values that are no number of it, digits that are not those of
    the value, and digits in words that stand in no text of it."""
    known = list(leaves(json.loads(text)))
    numbers = {repr(value) for value in known if isinstance(value, int | float) and not isinstance(value, bool)}
    words = [str(value) for value in known if isinstance(value, str)]
    reader = Reader(html)
    assert reader.numbers
    found = [value for value, _ in reader.numbers if value not in numbers]
    found += [f"{v} as {s}" for v, s in reader.numbers if s not in {shown(float(v), kind) for kind in KINDS}]
    digits = [token for part in reader.text for token in re.findall(r"\d[\d.,]*\d|\d", part)]
    return found + [token for token in digits if not any(token in word for word in words)]


@pytest.fixture(scope="session", name="read_page")
def _read_page() -> type[Reader]:
    """What a page shows: `read_page(html).text`."""
    return Reader


@pytest.fixture(scope="session", name="unaccounted")
def _unaccounted() -> Callable[..., list[str]]:
    """Numbers of a page that its JSON does not hold: `unaccounted(html, text)`."""
    return unaccounted


@pytest.fixture(scope="session", name="polyps_text")
def _polyps_text() -> str:
    """The text of the study file."""
    return STUDY


@pytest.fixture(scope="session", name="train")
def _train() -> Callable[..., None]:
    """One simulated worker, to the end: `train(search, runs)`."""
    return train


@pytest.fixture(scope="session", name="synthetic")
def _synthetic() -> Callable[..., Confirmed]:
    """A confirmation in which distillation is worth so much: `synthetic(0.02)`."""
    return synthetic


@pytest.fixture(scope="session", name="changed")
def _changed() -> Callable[..., Confirmed]:
    """A confirmation with fewer networks, seeds or images: `changed(found, seeds=2)`."""
    return changed


@pytest.fixture(scope="session", name="alone")
def _alone() -> Callable[..., Report]:
    """The report of a study that has only its main search: `alone(made, taught=False)`."""
    return alone


@pytest.fixture(scope="session", name="confirmed_study")
def _confirmed_study() -> Callable[..., Report]:
    """The report with a confirmation in the place of its own answer: `confirmed_study(made, found)`."""
    return confirmed_study
