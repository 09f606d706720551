"""Paths with variables: filled in, named where not set, and a dollar that is a dollar."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.config import UNetTeacher
from trainer.errors import CheckpointError, DataError, UserError
from trainer.profiling import latency_table
from trainer.repository import escaped, expand
from trainer.teacher.open import located


def test_variables_and_homes_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_TEST_PLACE", "/there")
    for text in ("$KD_TEST_PLACE/x", "${KD_TEST_PLACE}/x"):
        assert expand(text, "f") == Path("/there/x")
    assert expand("~/x", "f") == Path.home() / "x"
    assert expand("$$KD_TEST_PLACE/a$/$.b/$$", "f") == Path("$KD_TEST_PLACE/a$/$.b/$")


@given(st.text(alphabet="a$_{}~/ .", min_size=1, max_size=12))
def test_an_escaped_path_is_itself(path: str) -> None:
    assert expand(escaped(path), "f") == Path(path)


def test_every_path_of_a_study_takes_the_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    """And names the field and the remedy where a variable is not set, as its own kind of error."""
    monkeypatch.delenv("dir", raising=False)
    teacher = UNetTeacher(name="unet", checkpoint="we $$dir/t.safetensors")
    assert located(teacher) == Path("we $dir/t.safetensors")
    assert latency_table.located("we $$dir/t.csv") == Path("we $dir/t.csv")
    with pytest.raises(
        CheckpointError, match=r"teacher\.checkpoint = 'we \$dir': the variable dir is not set; .* \$\$"
    ):
        located(UNetTeacher(name="unet", checkpoint="we $dir"))
    with pytest.raises(UserError, match=r"table = '\$dir': the variable dir is not set"):
        latency_table.located("$dir")
    with pytest.raises(DataError, match=r"data\.root = '\$dir': the variable dir is not set"):
        expand("$dir", "data.root")
