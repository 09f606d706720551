"""Where a search's database is, when nobody says."""

import argparse
import os
from pathlib import Path

DEFAULT = Path("runs/search.db")


def add_storage(parser: argparse.ArgumentParser) -> None:
    """The flag --storage."""
    parser.add_argument(
        "--storage",
        help="database URL; default: $OPTUNA_STORAGE (keeps a password out of the process list), else "
        f"sqlite:///{DEFAULT} for one machine",
    )


def storage_url(given: str | None) -> str:
    """The database URL: the flag's, the environment's, or a SQLite file in the folder of the runs."""
    url = given or os.environ.get("OPTUNA_STORAGE")
    if url:
        return url
    DEFAULT.parent.mkdir(exist_ok=True)
    return f"sqlite:///{DEFAULT}"
