"""The system user that a database server runs as: PostgreSQL refuses root, so root hands itself over to another.

The whole process changes, before it touches anything in the server's folder: root never follows what another user
may have laid there.
"""

import encodings.idna
import os
import pwd
from pathlib import Path
from typing import NamedTuple

from loguru import logger

from trainer.errors import UserError, refusal_text

LOADED = (encodings.idna,)
"""What Python loads late, at the first look-up of a host: afterwards its own files may be out of reach."""
FALLBACKS = ("postgres", "nobody")
"""Whom root becomes for a new folder, where nobody is named: the first that this machine knows."""


class Account(NamedTuple):
    """A system user."""

    name: str
    uid: int
    gid: int


def owner_name(folder: Path) -> str:
    """The name of a folder's owner, or its number."""
    return _name(folder.stat().st_uid)


def become(folder: Path, user: str | None, *, create: bool) -> None:
    """Be the user whose folder this is, or will be; afterwards the folder exists, belongs to this user and is private.

    create: make a missing folder; root makes it, and its missing parents, for `user`. Raises UserError where the
    folder is another's, cannot be reached, or does not exist and may not be made.
    """
    os.umask(0o077)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--dir {folder}: no folder")
    if not folder.exists() and not create:
        raise UserError(f"--dir {folder}: does not exist; make one with: python -m search db start --dir {folder}")
    if os.geteuid() == 0:
        _leave_root(folder, user)
    else:
        _stay(folder, user)
    folder.chmod(0o700)


def _stay(folder: Path, user: str | None) -> None:
    me = _name(os.geteuid())
    if user not in (None, me):
        raise UserError(f"--user {user}: this process runs as {me}; only root can choose another user")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--dir {folder}: cannot be made ({refusal_text(error)}); choose a folder that is yours"
        ) from None
    if folder.stat().st_uid != os.geteuid():
        raise UserError(f"--dir {folder}: belongs to {owner_name(folder)}, not to {me}; run this as its owner or root")


def _leave_root(folder: Path, user: str | None) -> None:
    account = _successor(folder, user)
    os.setgroups([])
    closed = _closed_parent(folder, account)
    if closed is not None:
        raise UserError(
            f"--dir {folder}: PostgreSQL does not run as root, and {account.name} cannot enter {closed}; "
            f"choose a folder such as /var/lib/kd-search, or: chmod o+x {closed}"
        )
    if not folder.exists():
        _make_open(folder.parent)
        folder.mkdir(mode=0o700)
    if folder.stat().st_uid == 0:
        os.chown(folder, account.uid, account.gid)
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)


def _successor(folder: Path, user: str | None) -> Account:
    status = folder.stat() if folder.exists() else None
    if status is not None and status.st_uid != 0:
        owner = status.st_uid
        if user not in (None, _name(owner)):
            raise UserError(f"--user {user}: {folder} belongs to {_name(owner)}; leave --user out")
        return Account(_name(owner), owner, status.st_gid)  # a container may know the number alone
    if status is not None and any(folder.iterdir()):
        raise UserError(f"--dir {folder}: belongs to root and holds other files; name a new folder")
    if user is not None:
        return _entry(user)
    known = {entry.pw_name for entry in pwd.getpwall()}
    chosen = next((name for name in FALLBACKS if name in known), None)
    if chosen is None:
        raise UserError("PostgreSQL does not run as root; name another user of this machine with --user")
    logger.info("PostgreSQL does not run as root: {} will own {} (--user names another)", chosen, folder)
    return _entry(chosen)


def _entry(user: str) -> Account:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise UserError(f"--user {user}: this machine has no such user") from None
    if entry.pw_uid == 0:
        raise UserError(f"--user {user}: PostgreSQL does not run as root; name another user")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _closed_parent(folder: Path, account: Account) -> Path | None:
    """The topmost existing parent that a user cannot enter; the system itself is asked, so that all its rules count."""
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        return next((p for p in reversed(folder.parents) if not _enters(p)), None)
    finally:
        os.seteuid(0)
        os.setegid(0)


def _enters(parent: Path) -> bool:
    try:
        parent.stat()
    except FileNotFoundError:
        return True  # root will make it
    except PermissionError:
        return False
    return os.access(parent, os.X_OK, effective_ids=True)


def _make_open(parent: Path) -> None:
    """A missing parent that other users may enter."""
    if not parent.exists():
        _make_open(parent.parent)
        parent.mkdir()
        parent.chmod(0o755)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
