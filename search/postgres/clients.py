"""Who is connected to a PostgreSQL."""

import sqlalchemy as sa

from search.storage.database import bare_engine

OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def connected(url: str) -> int | None:
    """How many connections others have to a database; None where it does not answer."""
    engine = bare_engine(url)
    try:
        with engine.connect() as connection:
            return int(connection.exec_driver_sql(OTHERS).scalar_one())
    except sa.exc.SQLAlchemyError:
        return None
    finally:
        engine.dispose()
