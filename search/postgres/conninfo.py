"""A database URL as PostgreSQL's own programs take it: arguments can be read by everybody on the machine."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from search.storage.database import SECRET_WORDS
from trainer.errors import UserError


@contextmanager
def without_secrets(url: sa.URL) -> Iterator[tuple[str, dict[str, str]]]:
    """The URL without secrets, for the arguments, and what the environment needs beside PGPASSWORD.

    The other secrets have no variable of their own, so they stand in a service file of mode 0600 as long as this lasts.
    Raises UserError where the URL names a service itself.
    """
    bare = url.difference_update_query(list(SECRET_WORDS))._replace(drivername="postgresql", password=None)
    kept = {name: str(url.query[name]) for name in SECRET_WORDS if name in url.query and name != "password"}
    if not kept:
        yield bare.render_as_string(hide_password=False), {}
        return
    first = next(iter(kept))
    if "service" in url.query:
        raise UserError(f"storage: {first} beside service: write the secret into the file of that service")
    if any("\n" in value for value in kept.values()):
        raise UserError(f"storage: {first} has several lines; no service file can hold it")
    with tempfile.NamedTemporaryFile("w", prefix="kd-service-") as file:  # of mode 0600
        file.write("".join(["[kd]\n", *(f"{name}={value}\n" for name, value in kept.items())]))
        file.flush()
        named = bare.update_query_dict({"service": "kd"})
        yield named.render_as_string(hide_password=False), {"PGSERVICEFILE": file.name}
