"""A series of small studies: two widths of the student, with a teacher and without."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.commands.simulate import simulated_identity
from search.spec.load import load
from search.storage.database import Database, open_storage
from search.study.adapter import StudyAdapter
from search.study.create import open_search

SERIES = """
[[enqueue]]
"losses.kl.weight" = 2.0
"optim.lr" = 1e-3
[confirm]
seeds = [21, 22]
top = 1
[series]
LIMITS
[series.product.student.small]
"run.student.width" = 4
[series.product.student.large]
"run.student.width" = 8
[series.product.method.kl]
"run.method" = "kl"
[series.product.method.none]
"run.method" = "none"
"""


@pytest.fixture(scope="session")
def series_text(small_study: Callable[..., str]) -> Callable[..., str]:
    """The file of the series: `series_text(limits="gpu_hours = 1.0")`; other words as those of `small_study`."""

    def made(limits: str = "", **values: object) -> str:
        text = small_study(**values).replace(
            "[space]\n", '[space]\n"losses.kl.weight" = { low = 0.1, high = 10.0, log = true }\n'
        )
        teacher = (
            'teacher = { name = "unet", width = 12, checkpoint = "none.safetensors" }\nlosses = { ce = {}, kl = {} }'
        )
        return text.replace("losses = { ce = {} }", teacher) + SERIES.replace("LIMITS", limits)

    return made


@pytest.fixture
def opened(database_url: str) -> Iterator[Database]:
    there = open_storage(database_url)
    yield there
    there.engine.dispose()


@pytest.fixture
def join(opened: Database, database_url: str, tmp_path: Path) -> Callable[..., StudyAdapter]:
    """Open a member of the series, or another study of the folder: `join("kd.2")`."""

    def joined(name: str, text: str | None = None) -> StudyAdapter:
        if text is not None:
            (tmp_path / f"{name.partition('.')[0]}.toml").write_text(text)
        spec = load(tmp_path / f"{name}.toml")
        return open_search(opened, database_url, spec, simulated_identity(spec))

    return joined
