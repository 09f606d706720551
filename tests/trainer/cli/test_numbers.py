"""Numbers on a command line: what a flag's range leaves out is refused where it is read."""

import argparse

import pytest

from trainer.cli.numbers import real, whole


@pytest.mark.parametrize(
    ("read", "taken", "refused", "range_said"),
    [
        (whole(1), ("1", "40"), ("0", "-3", "1.5", "many", ""), "a whole number of 1 or more"),
        (whole(0, 9), ("0", "9"), ("10",), "a whole number from 0 to 9"),
        (real(0), ("0", "1e-9", "7"), ("-1", "nan", "inf", "-inf", "much"), "a number of 0 or more"),
        (real(0, above=True), ("0.1",), ("0", "-0.0", "nan"), "a number above 0"),
        (real(0, 1), ("0", "1"), ("1.1", "nan"), "a number from 0 to 1"),
        (real(0, 2, above=True), ("2",), ("0", "2.5"), "a number above 0, at most 2"),
    ],
)
def test_a_range_takes_its_ends_and_refuses_the_rest(read, taken, refused, range_said):
    assert [read(text) for text in taken] == [float(text) for text in taken]
    for text in refused:
        with pytest.raises(argparse.ArgumentTypeError) as error:
            read(text)
        assert str(error.value) == f"{text!r}: expected {range_said}"
