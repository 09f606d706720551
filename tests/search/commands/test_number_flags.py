"""Flags of all commands that take a number: none lets nan, infinity or what makes no sense through."""

import argparse

import pytest

from tests.search.commands.test_help import PARSERS

CHECKED_BY_COMMANDS = {
    "--margin": "0 to 1, and with a lower precision alone",
    "--size": "multiples of 32, and of a study's own image for a file",
    "--threshold": "a probability, and of two classes or of regions alone",
    "--wait": "seconds above 0; infinity is its default",
    "--watch": "from a second to a day; a report's from ten",
}
"""Flags whose command knows more than a range."""


def test_every_flag_that_takes_a_number_says_its_range_or_has_a_command_that_does():
    """A bare `float` would take nan, which no comparison refuses, and infinity; a bare `int` what is below 0."""
    bare = {
        action.option_strings[0]
        for parser in PARSERS.values()
        for action in parser._actions
        if action.type in (int, float) and action.help is not argparse.SUPPRESS
    }
    assert bare == set(CHECKED_BY_COMMANDS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["search", "work", "demo", "--ttl", "0"], "argument --ttl: '0': expected a number above 0"),
        (
            ["search", "work", "demo", "--stall", "1e300"],
            "argument --stall: '1e300': expected a number above 0, at most 1e+09",
        ),
        (["search", "work", "demo", "--stall", "nan"], "argument --stall: 'nan': expected a number above 0"),
        (
            ["search", "work", "demo", "--note-every", "-1"],
            "argument --note-every: '-1': expected a number from 0 to 1e+09",
        ),
        (
            ["search", "work", "demo", "--database-wait", "inf"],
            "argument --database-wait: 'inf': expected a number from 0 to 1e+09",
        ),
        (
            ["search", "work", "demo", "--ranks-per-trial", "0"],
            "argument --ranks-per-trial: '0': expected a whole number",
        ),
        (
            ["search", "simulate", "demo", "--workers", "0"],
            "argument --workers: '0': expected a whole number of 1 or more",
        ),
        (
            ["search", "simulate", "demo", "--kills", "-1"],
            "argument --kills: '-1': expected a whole number of 0 or more",
        ),
        (["search", "simulate", "demo", "--kill-every", "0"], "argument --kill-every: '0': expected a number above 0"),
        (
            ["search", "simulate", "demo", "--fail-share", "2"],
            "argument --fail-share: '2': expected a number from 0 to 1",
        ),
        (
            ["search", "dashboard", "--port", "65536"],
            "argument --port: '65536': expected a whole number from 0 to 65535",
        ),
        (["search", "work", "demo", "--restarts", "-1"], "argument --restarts: '-1': expected a whole number of 0"),
        (["search", "confirm", "demo", "--top", "0"], "argument --top: '0': expected a whole number of 1 or more"),
        (["search", "init", "a", "--trials", "0"], "argument --trials: '0': expected a whole number from 1 to 1000000"),
        (["trainer", "fit", "a", "--rank", "0"], "argument --rank: '0': expected a whole number of 1 or more"),
        (["trainer", "evaluate", "a", "--batch-size", "0"], "argument --batch-size: '0': expected a whole number of 1"),
    ],
)
def test_a_number_out_of_range_is_one_line_before_anything_begins(module, words, said):
    error = module(*words, code=2).stderr
    assert f"error: python -m {' '.join(words[:2])}: {said}" in error
    assert len(error.splitlines()) == 1
