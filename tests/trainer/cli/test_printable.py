"""No name moves a terminal's cursor, and no password of a URL is shown."""

import sys

import pytest

from trainer.cli.entry import guard
from trainer.cli.printable import printable
from trainer.errors import UserError, one_line, without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Übung, 画像\n", "plain, Übung, 画像\n"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\rb\x07\x9b31m", "a\\rb\\x07\\x9b31m"),
        ("\r\x1b[K3/7\tdone\n", "\\r\\x1b[K3/7\tdone\n"),
        ("name \udcff of no encoding", "name \\udcff of no encoding"),
        ("right \u202e to left", "right \\u202e to left"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text, shown):
    assert printable(text) == shown


def test_what_a_command_prints_and_logs_is_printable(capsys):
    def main() -> int:
        from loguru import logger

        logger.remove()
        logger.add(sys.stderr, format="{message}")
        logger.info("picture {}", "evil\x1b]0;title\x07.png")
        print("read evil\x1b[1A.png")
        raise UserError("evil\x1b[2J.png: broken; its database is postgresql://me:s3cret@x@host/db")

    assert guard(main) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "evil\\x1b]0;title\\x07.png" in err
    assert "s3cret" not in err
    assert "postgresql://me:***@host/db" in err
    assert sys.stdout is not None
    print("evil\x1b")
    assert capsys.readouterr().out == "evil\x1b\n", "only inside a command"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:s3cret@host/db",
        "postgresql+psycopg2://u:Top@s3cret@host:1/db?sslmode=require",
        "two: postgresql://u:s3cret/x@host/a and mysql://v:s3cret@s3cret@h/b",
        "--storgae=postgresql://u:s3cret?y@host/db",
    ],
)
def test_nothing_between_the_first_colon_and_the_last_at_is_shown(text):
    assert "s3cret" not in without_passwords(text)
    assert "host" in without_passwords(text)
    assert one_line(text) == without_passwords(text)
    assert without_passwords("http://127.0.0.1:8080/dashboard") == "http://127.0.0.1:8080/dashboard"
