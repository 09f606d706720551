"""The map of the faults, README.md beside this file, names what is there."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_test_that_the_map_names_is_where_it_says_and_no_file_is_left_out() -> None:
    """A test that is cut or renamed takes its fault off the map."""
    text = (HERE / "README.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    named = 0
    for line in lines:
        content = ""
        for word in re.findall(r"`((?:\w+/)*test_\w+(?:\.py)?)`", line):
            if word.endswith(".py"):
                files = [path for path in (HERE / word, HERE.parent / word) if path.is_file()]
                assert files, f"no file {word}"
                content = "".join(path.read_text() for path in files)
            else:
                named += 1
                assert f"def {word}(" in content, f"{word} is not there any more: {line}"
    assert named > 20
    absent = [path.name for path in HERE.glob("test_*.py") if path != Path(__file__) and f"`{path.name}`" not in text]
    assert not absent
