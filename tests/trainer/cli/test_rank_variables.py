"""What a launcher leaves in the environment: numbers, or a mistake in one line; never a KeyError."""

import pytest

from trainer.cli.rank_variables import LAUNCHER, given_variables, place_in_world, rank_variable
from trainer.errors import UserError


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


def test_a_single_process_is_the_first_of_one():
    assert place_in_world() == (0, 1)
    assert given_variables() == ""


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, None),
        ({"RANK": "1", "WORLD_SIZE": "2"}, None),
        ({"RANK": "1"}, "RANK = 1, WORLD_SIZE = not set: .*unset RANK WORLD_SIZE"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK = 2, WORLD_SIZE = 2: expected a place below"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE = 2, RANK is not set: .*unset WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE = '0': expected a whole number of at least 1"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK = '-1': expected"),
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE = 'two': expected"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK = '': expected"),
    ],
)
def test_variables_that_contradict_each_other_are_named_with_the_remedy(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if message is None:
        assert place_in_world() == (int(variables["RANK"]), int(variables.get("WORLD_SIZE", "1")))
        assert given_variables() == " ".join(f"{name}={value}" for name, value in variables.items())
        return
    with pytest.raises(UserError, match=message):
        place_in_world()


def test_a_number_that_is_not_set_is_the_default(monkeypatch):
    assert rank_variable("LOCAL_WORLD_SIZE", 3, least=1) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert rank_variable("LOCAL_WORLD_SIZE", 3, least=1) == 2
