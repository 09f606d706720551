"""No password is shown, wherever it stands in a message."""

import pytest

from search.study.trial_attributes import plain
from trainer.errors import one_line, received, without_passwords

HIDDEN = [
    ("postgresql://me:s3cret@host/db", "postgresql://me:***@host/db"),
    ("postgresql://me:s3c%40ret%2Fx@host:1/db?sslmode=require", "postgresql://me:***@host:1/db?sslmode=require"),
    ("postgresql+psycopg2://me:to@s3cret/and/more@host/db", "postgresql+psycopg2://me:***@host/db"),
    ("postgresql://me@corp:s3cret@host/db", "postgresql://***@host/db"),
    ("postgresql://me/corp:s3cret@host/db", "postgresql://***@host/db"),
    ("redis://:s3cret@host/0", "redis://:***@host/0"),
    ("https://s3cret@host/repository.git", "https://***@host/repository.git"),
    ("a postgresql://a:s3cret@h/x, mysql://b:s3cret@s3cret@i/y", "a postgresql://a:***@h/x, mysql://b:***@i/y"),
    ("postgresql://a@h,postgresql://b:s3cret@host", "postgresql://***@host"),
    ("--url=postgresql://a:s3cret@h postgresql://b@i", "--url=postgresql://a:***@h postgresql://b@i"),
    ("postgresql://me@h/db?password=s3cret@s3cret&port=1", "postgresql://me@h/db?password=***&port=1"),
    ("postgresql://me:s3cret@h/db?sslpassword=s3cret&a=b", "postgresql://me:***@h/db?sslpassword=***&a=b"),
    ("host=db password=s3cret/@&s3cret port=1", "host=db password=*** port=1"),
    (r"password = 'a s3cr\'et b' sslpassword=s3cret host=db", "password = *** sslpassword=*** host=db"),
    ('PGPASSWORD="a s3cret" psql -h db', "PGPASSWORD=*** psql -h db"),
    ("host=db password='a s3cret that is cut", "host=db password=***"),
    (r"dsn 'host=db password=\'a s3cret\' port=1'", "dsn 'host=db password=***"),
    (
        "password=s3cret at postgresql://me:s3cret@h or https://s3cret@i",
        "password=*** at postgresql://me:***@h or https://***@i",
    ),
]


@pytest.mark.parametrize(("text", "shown"), HIDDEN)
def test_a_password_is_hidden_by_the_one_rule_wherever_it_is_shown(text: str, shown: str) -> None:
    assert "cret" not in shown
    assert without_passwords(text) == shown
    assert without_passwords(shown) == shown
    assert one_line(text) == plain(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8080/dashboard",
        "known forms: postgresql://USER@HOST/DATABASE, sqlite:///FILE",
        "sqlite:////srv/data/me@home/search.db, file:///srv/a:b@c",
        "the password holds '@'; write it as %40",
        "mail me@host: 3 passwords",
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert without_passwords(text) == text


def test_a_value_is_cut_after_its_password_is_hidden() -> None:
    assert "s3cret" not in received(f"{'x' * 40} postgresql://me:s3cret{'y' * 80}@host/db")
