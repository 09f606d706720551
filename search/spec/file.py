"""Where study files lie and how they are read: TOML, small and shallow."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config_paths import Table, text_of, toml_table
from trainer.errors import UserError, nearest
from trainer.repository import LARGEST_STUDY, STUDIES
from trainer.series import member_at

DEEPEST = 12
"""Tables within tables, dots in a key included."""


def find(name_or_path: str) -> Path:
    """The file of a study: a path, or the name of a file in `studies/` here or beside the program. Of a member of a
    series it is the path that a file of its own would have (`trainer.series`). Raises UserError."""
    given = Path(name_or_path)
    if given.suffix == ".toml" or len(given.parts) > 1:
        if given.exists() and not given.is_file():
            raise UserError(
                f"study {name_or_path}: is {'a folder' if given.is_dir() else 'no file'}; give a study file"
            )
        if not given.is_file() and member_at(given) is None:
            beside = [str(file) for file in given.parent.glob("*.toml")] if given.parent.is_dir() else []
            raise UserError(f"study {name_or_path}: no such file{nearest(name_or_path, beside)}")
        return given
    for folder in STUDIES:
        path = folder / f"{name_or_path}.toml"
        if path.is_file() or member_at(path) is not None:
            return path
    known = [file.stem for folder in STUDIES for file in folder.glob("*.toml")]
    raise UserError(
        f"study {name_or_path}: no such file in studies/{nearest(name_or_path, known)}; "
        "`python -m search init FOLDER` writes one for pictures of your own"
    )


def read(path: Path) -> Table:
    """The tables of a TOML file. Raises UserError."""
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= LARGEST_STUDY else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a study file") from error
    if size > LARGEST_STUDY:
        raise UserError(f"{path}: {size} bytes; a study file has at most {LARGEST_STUDY}: is it the right file?")
    try:
        table = toml_table(text_of(content, str(path)), str(path))
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; a study file has at most {DEEPEST} levels") from error
    check_depth(table, str(path))
    return table


def check_depth(table: Mapping[str, Any], where: str) -> None:
    """Refuse tables and lists that lie deeper than any study needs. Raises UserError."""
    waiting: list[tuple[int, Any]] = [(0, table)]
    while waiting:
        depth, value = waiting.pop()
        if depth > DEEPEST:
            raise UserError(f"{where}: nested too deeply; a study file has at most {DEEPEST} levels")
        if isinstance(value, Mapping):
            waiting += [(depth + 1 + key.count("."), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(depth + 1, inner) for inner in value]


CONFIRMATION = re.compile(r"(?P<study>.+)\.confirm(-(?P<again>[0-9]+))?")
"""The name of a confirmation: that of its search, and which one it is from the second on."""


def is_confirmation(name: str) -> bool:
    """Whether a study's name is that of a confirmation, and no file's."""
    return CONFIRMATION.fullmatch(Path(name).name) is not None and not name.endswith(".toml")
