"""A small study with two ways to be taught, as the tests of study files change it."""

from collections.abc import Callable
from typing import Any

import pytest

from search.spec.load import StudySpec, load
from trainer.errors import UserError

SMALL = """
[objective]
maximize = "dice"
[run]
method = "kl"
epochs = 10
[run.data]
name = "blobs"
[run.teacher]
name = "unet"
checkpoint = "teacher.safetensors"
[run.student]
name = "unet"
width = 8
[run.losses]
ce = { weight = 1.0 }
kl = { weight = 1.0 }
cwd = { weight = 1.0 }
at = { taps = ["mid"] }
[budget]
trials = 10
"""


@pytest.fixture
def study(tmp_path):
    """Write a study file: the small one with text before and after it, and with replacements; and load it."""

    def make(
        space: str = '"optim.lr" = { low = 1e-4, high = 1e-2, log = true }', more: str = "", **kwargs: Any
    ) -> StudySpec:
        sets = kwargs.pop("sets", ())
        name = kwargs.pop("name", None)
        text = SMALL
        for old, new in kwargs.pop("swap", {}).items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "small.toml"
        path.write_text(f"{text}\n[space]\n{space}\n{more}\n")
        return load(path, sets, name=name)

    return make


@pytest.fixture(scope="session")
def small_text() -> str:
    """The text of that study, without its space."""
    return SMALL


@pytest.fixture(scope="session")
def chain() -> str:
    """A space in which each parameter is live with some values of the one before."""
    return """
    "losses.cwd.weight" = { low = 1.0, high = 2.0, when = { "student.width" = 8 } }
    "student.width" = { choices = [4, 8], when = { method = ["cwd", "kl+cwd"] } }
    method = { choices = ["kl", "cwd", "kl+cwd"] }
    """


@pytest.fixture(scope="session", name="the_line")
def _the_line() -> Callable[..., None]:
    """See that an error is one line with some words: `the_line(error, *words)`."""
    return the_line


def the_line(error: pytest.ExceptionInfo[UserError], *words: str) -> None:
    """An error is one line with all of these words."""
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
