"""Tables as CSV and LaTeX, their file names, and numbers written one way."""

import re

import pytest

from search.report.content.build import rounded
from search.report.content.document import Report
from search.report.content.number_format import MINUS, shown
from search.report.files import csv_text, named, slug
from search.report.table_formats import CLAIM, Column, Table, escaped, latex


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1"])
def test_no_text_of_a_csv_is_a_formula(text: str) -> None:
    made = csv_text(Table("t", "t", (Column("a"), Column("b", "signed")), ((text, -1.5),)))
    assert made.splitlines()[1].startswith("'")
    assert made.splitlines()[1].endswith(",-1.5"), "numbers stay numbers"


def test_latex_is_escaped_and_numbers_are_as_on_the_page() -> None:
    table = Table("a_b", "Ends & 50 %", (Column("what"), Column("x", "signed")), (("a_b\\c{}", -0.0123), (None, None)))
    text = latex(table)
    assert r"Ends \& 50 \%" in text
    assert r"a\_b\textbackslash{}c\{\} & $-$0.0123 \\" in text
    assert "-- & -- \\\\" in text
    assert r"\label{tab:a-b}" in text
    assert escaped("a\nb \u202e \U0001f600") == "a b ? ?"


def test_latex_of_every_table_has_as_many_cells_in_each_row_as_columns(gained: Report) -> None:
    """Long tables go over pages, and what nobody knows of any row has no column."""
    for name, table in named(gained):
        text = latex(table)
        assert ("\\begin{longtable}" in text) == (len(table.rows) > 30), name
        layout = text.split("{@{}", 1)[1].split("@{}}", 1)[0].replace("textwidth", "")
        columns = len(re.findall(r"[lr]|p\{", layout))
        rows = [line for line in text.splitlines() if line.endswith("\\\\") and "\\caption" not in line]
        assert len(rows) == len(table.rows) + 1 + table.long, name
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {columns - 1}, name
        assert re.findall(r"\\begin\{(\w+)\}", text) == re.findall(r"\\end\{(\w+)\}", text)[::-1], name
    empty = Table("t", "t", (Column("a"), Column("b"), Column("c")), (("x", None, 1), ("y", "", None)))
    assert [column.title for column in empty.for_readers().columns] == ["a", "c"]
    assert empty.for_readers().rows == (("x", 1), ("y", None))


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", ".", "x" * 300, "caf\u00e9 \u202e"])
def test_names_of_files_are_never_paths(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", slug(name))


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.91234, "score", "0.9123"),
        (-0.01234, "signed", f"{MINUS}0.0123"),
        (0.01234, "signed", "+0.0123"),
        (12345.0, "count", "12,345"),
        (0.0001, "p", "< 0.001"),
        (0.0421, "p", "0.042"),
        (0.042, "percent", "4.2 %"),
        (0.42, "percent", "42 %"),
        (1.41e-5, "short", "1.41e-05"),
        (4.858, "short", "4.86"),
    ],
)
def test_numbers_are_written_one_way(value: float, kind: str, text: str) -> None:
    assert shown(value, kind) == text


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("correlation", -2.85e-17, "0.00"),
        ("correlation", -0.734, "\N{MINUS SIGN}0.73"),
        ("hours", 8.93e-04, "3.2 s"),
        ("hours", 0.0292, "2 min"),
        ("hours", 3.35, "3 h 21 min"),
    ],
)
def test_numbers_are_written_as_a_reader_would_say_them(kind, value, text):
    assert shown(value, kind) == text


def test_rounding_noise_reaches_no_file(made):
    study = made.studies[0]
    noisy = study.search.model_copy(update={"seconds_an_epoch": 0.8999999999999999})
    again = rounded(made.model_copy(update={"studies": (study.model_copy(update={"search": noisy}),)}))
    assert again.studies[0].search.seconds_an_epoch == 0.9
    assert again.studies[0].search.arms[0].name == study.search.arms[0].name


def test_readers_get_plain_words_for_claims_and_scripts_keep_their_names():
    table = Table("t", "T", (Column(CLAIM), Column("hours", "hours", "time")), (("kd_term_effect", 1.0), ("own", 2.0)))
    assert [row[0] for row in table.for_readers().rows] == ["effect of the distillation term", "own"]
    assert [column.title for column in table.for_readers().columns] == ["claim", "time"]
    assert csv_text(table).startswith("claim,hours\nkd_term_effect,1.0\n")
