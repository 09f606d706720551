"""The table of what the published studies offer: each command in it is one that the programs take."""

import re
import shlex

import pytest

import search.__main__
import trainer.__main__
from trainer.data.downloads.sources import SOURCES
from trainer.repository import REPOSITORY

PAGE = (REPOSITORY / "docs" / "studies.md").read_text()
TABLE = PAGE[PAGE.index("## What they offer") :]
COMMANDS = sorted(set(re.findall(r"`python -m ((?:search|trainer) [^`]+)`", TABLE)))
PROGRAMS = {"search": search.__main__, "trainer": trainer.__main__}
STUDIES = {file.stem for file in (REPOSITORY / "studies").glob("*.toml")}


def test_every_study_has_rows_and_the_table_has_commands():
    studies = {line.split("|")[1].strip() for line in TABLE.splitlines() if line.startswith("| ")}
    assert studies - {"study", "---"} == {
        "ACF-BCKD", "Distilled-UNet", "SelfReg-UNet", "U-Net variants", "zh320's polyps",
    }  # fmt: skip
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_table_is_taken_and_names_studies_that_are_there(command):
    program, *arguments = shlex.split(command)
    args = PROGRAMS[program].parser(arguments).parse_args(arguments)
    named = vars(args).get("study")
    assert named is None or named in STUDIES
    for word in arguments:
        if word.startswith("studies/"):
            assert (REPOSITORY / word).is_file()
    if arguments[:2] == ["data", "fetch"]:
        assert arguments[2] in SOURCES


def test_links_of_the_page_lead_to_files_and_headings():
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (REPOSITORY / "docs" / link).exists(), link
