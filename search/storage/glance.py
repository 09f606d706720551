"""A first look at a search in a database, quick enough for the first line of a worker: neither Optuna nor its tables.

Looking writes nothing, and a database that does not answer now is no mistake here: the worker itself waits for it.
"""

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from loguru import logger

from search.storage.schema import FINISHED, arms, leases, searches
from search.storage.url import _with_driver, label_of, refuse_bad_file
from trainer.errors import one_line

SECONDS = 2
"""How long a server may take to answer a look."""


@dataclass(frozen=True)
class Glance:
    """What stands under a study's name in one database."""

    place: str
    """The database, its file absolute, without a password."""
    file: Path | None
    """The absolute path of an SQLite database."""
    begun: bool | None
    """Whether the search is there; None where the database could not be looked at."""
    finished: int = 0
    """Trials that completed or were pruned."""
    trials: int = 0
    """The budget, over all arms."""
    why: str = ""
    """Why it could not be looked at."""

    def text(self) -> str:
        """`joins the search in PLACE: 12 of 40 trials are finished`, or that a new one begins, or why it is unknown."""
        if self.begun is None:
            return f"the search in {self.place}, which does not answer yet ({self.why})"
        if not self.begun:
            return f"begins a new search in {self.place}"
        return f"joins the search in {self.place}: {self.finished} of {self.trials} trials are finished"


def announce_look(what: str, url: str) -> None:
    """Say which database a command is going to read, its file absolute: before what takes seconds. Raises UserError."""
    logger.info("{} {}", what, _place(_with_driver(url), url))


def _place(parsed: sa.URL, url: str) -> str:
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:///{Path(parsed.database or '').absolute()}"
    return label_of(url)


def glance(url: str, name: str) -> Glance:
    """Look at a search by its name. Raises UserError for what is no database URL, and where waiting changes nothing."""
    parsed = _with_driver(url)
    if parsed.get_backend_name() == "sqlite":
        refuse_bad_file(parsed, label_of(url))
        file = Path(parsed.database or "").absolute()
        place = _place(parsed, url)
        if not file.is_file():
            return Glance(place, file, begun=False)
        return _look(sa.create_engine(f"sqlite:///{file.as_uri()}?mode=ro&uri=true"), place, file, name)
    engine = sa.create_engine(parsed, poolclass=sa.NullPool, connect_args={"connect_timeout": SECONDS})
    return _look(engine, _place(parsed, url), None, name)


def _look(engine: sa.Engine, place: str, file: Path | None, name: str) -> Glance:
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(searches.name):
                return Glance(place, file, begun=False)
            search = connection.execute(sa.select(searches.c.search_id).where(searches.c.name == name)).scalar()
            if search is None:
                return Glance(place, file, begun=False)
            own = arms.c.search_id == search
            over = (leases.c.state == FINISHED) & leases.c.failure.is_(None)
            ids = sa.select(arms.c.study_id).where(own)
            finished = sa.select(sa.func.count()).where(leases.c.study_id.in_(ids), over)
            budget = sa.select(sa.func.coalesce(sa.func.sum(arms.c.trials), 0)).where(own)
            done, trials = connection.execute(finished).scalar_one(), connection.execute(budget).scalar_one()
            return Glance(place, file, begun=True, finished=int(done), trials=int(trials))
    except sa.exc.SQLAlchemyError as error:
        from search.storage import errors  # with Optuna, which only a database that cannot be looked at needs

        if errors.is_no_database(error) or (errors.is_denied(error) and not errors.is_transient(error)):
            raise errors.refusal(place, error) from None
        return Glance(place, file, begun=None, why=one_line(str(getattr(error, "orig", None) or error))[:120])
    finally:
        engine.dispose()
