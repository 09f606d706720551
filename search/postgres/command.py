"""`python -m search db`: a database for a search, without a database administrator."""

import argparse
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from loguru import logger

from search.postgres import account, binaries
from search.postgres.address import LOOPBACK
from search.postgres.server import Server
from search.storage.url import add_storage, storage_url
from trainer.cli.numbers import whole
from trainer.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions and their flags."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        shown = argparse.RawDescriptionHelpFormatter
        example = f"example: {action.example.format(db='python -m search db')}"
        sub = actions.add_parser(name, help=action.what, description=action.what, epilog=example, formatter_class=shown)
        action.flags(sub)


def main(args: argparse.Namespace) -> int:
    """Do one action."""
    try:
        return ACTIONS[args.action].run(args)
    except PermissionError as error:
        raise UserError(f"db {args.action}: {error.filename}: {error.strerror}; run this as the owner") from None


# ---- the server in a folder


def _start(args: argparse.Namespace) -> int:
    known = binaries.folders()  # as this user, who may see more of them
    folder = _folder(args.dir)
    account.become(folder, args.user, create=True)
    # Alone on standard output: OPTUNA_STORAGE=$(python -m search db start --dir FOLDER)
    print(Server(folder).start(args.bin, known, args.host, args.port))
    return 0


def _stop(args: argparse.Namespace) -> int:
    from search.postgres.server import connected

    known = binaries.folders()
    folder = _folder(args.dir)
    server = Server(folder)
    count = connected(server.url()) if server.exists and server.pid() is not None else 0  # before it becomes another
    account.become(folder, None, create=False)
    if count:
        logger.warning(
            "connections that end with it: {}; workers train on and wait until it is back, dashboards show nothing",
            count,
        )
    ran = Server(folder).stop(args.bin, known)
    print(f"{args.dir}: stopped" if ran else f"{args.dir}: was not running")
    return 0


def _status(args: argparse.Namespace) -> int:
    server = Server(_folder(args.dir))
    address = server.address() if server.exists else None
    if address is None:
        raise UserError(f"--dir {args.dir}: no server was made there; make one with: python -m search db start")
    server.check_holder()
    pid = server.pid()
    state = "stopped" if pid is None else f"running (process {pid}, user {account.owner_name(server.folder)})"
    print(f"{args.dir}: {state}; PostgreSQL {server.major()} at {address.reached_as}:{address.port}")
    return 0


# ---- any database


def _backup(args: argparse.Namespace) -> int:
    from search.postgres.backup import backup
    from search.storage.errors import patient
    from search.storage.url import label_of

    url = _url(args)
    with patient("db backup"):
        counts = backup(url, args.output, args.bin, force=args.force)
    size = args.output.stat().st_size
    print(f"{args.output}: {size / 1e6:.1f} MB, {counts}, read back whole; of {label_of(url)}")
    file = shlex.quote(str(args.output))
    print(f"next: copy it to another disk; into a new database it goes by: python -m search db restore {file}")
    return 0


def _restore(args: argparse.Namespace) -> int:
    from search.postgres.backup import restore
    from search.storage.errors import patient
    from search.storage.url import label_of

    url = _url(args)
    with patient("db restore"):
        counts = restore(args.file, url, args.bin)
    print(f"{label_of(url)}: {counts}, as in {args.file}")
    print("next: start the workers again, with this database: python -m search work STUDY")
    return 0


def _upgrade(args: argparse.Namespace) -> int:
    from search.storage.errors import patient
    from search.storage.migrations import upgrade
    from search.storage.url import label_of

    url = _url(args)
    with patient("db upgrade"):
        done = upgrade(url, create=args.create)
    print(f"{label_of(url)}: {'; '.join(done) or 'is of this version already; nothing was changed'}")
    return 0


def _url(args: argparse.Namespace) -> str:
    if args.dir is None:
        return storage_url(args.storage)
    if args.storage is not None:
        raise UserError("--dir and --storage: give one of them")
    server = Server(_folder(args.dir))
    server.check_holder()
    url = server.url()
    if server.pid() is None:
        raise UserError(f"--dir {args.dir}: the server does not run; python -m search db start --dir {args.dir}")
    return url


def _folder(given: Path) -> Path:
    return Path(os.path.abspath(given.expanduser()))


# ---- flags


def _add_dir(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--dir", type=Path, required=required, metavar="FOLDER", help="the server's folder")


def _add_bin(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bin", type=Path, metavar="FOLDER", help="PostgreSQL's programs (default: those found here)")


def _start_flags(parser: argparse.ArgumentParser) -> None:
    _add_dir(parser)
    parser.add_argument(
        "--host",
        help=f"address to listen at; default: as before, at first {LOOPBACK}, which this machine alone reaches; "
        "0.0.0.0: all, for workers on other machines, with the password and without encryption",
    )
    parser.add_argument("--port", type=whole(1, 65535), help="default: as before, at first a free one")
    parser.add_argument("--user", help="as root: who owns a new folder (PostgreSQL does not run as root)")
    _add_bin(parser)


def _stop_flags(parser: argparse.ArgumentParser) -> None:
    _add_dir(parser)
    _add_bin(parser)


def _backup_flags(parser: argparse.ArgumentParser) -> None:
    _add_database(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="file to write")
    parser.add_argument("--force", action="store_true", help="replace the file where it exists")
    _add_bin(parser)


def _restore_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="what `db backup` wrote")
    _add_database(parser)
    _add_bin(parser)


def _upgrade_flags(parser: argparse.ArgumentParser) -> None:
    _add_database(parser)
    parser.add_argument("--create", action="store_true", help="make the tables where there are none")


def _add_database(parser: argparse.ArgumentParser) -> None:
    _add_dir(parser, required=False)
    add_storage(parser)


class Action(NamedTuple):
    """One word behind `db`."""

    run: Callable[[argparse.Namespace], int]
    flags: Callable[[argparse.ArgumentParser], None]
    what: str
    example: str


ACTIONS: Mapping[str, Action] = {
    "start": Action(
        _start,
        _start_flags,
        "start a PostgreSQL of your own in a folder, made at first; prints its URL with the password, nothing else",
        "export OPTUNA_STORAGE=$({db} start --dir $HOME/kd-database)",
    ),
    "stop": Action(_stop, _stop_flags, "stop it; workers wait until it is back", "{db} stop --dir $HOME/kd-database"),
    "status": Action(_status, _add_dir, "say whether it runs, and where", "{db} status --dir $HOME/kd-database"),
    "backup": Action(
        _backup,
        _backup_flags,
        "write a database to one file while workers run, and read it back",
        "{db} backup --dir $HOME/kd-database -o monday.backup",
    ),
    "restore": Action(
        _restore,
        _restore_flags,
        "put a backup into a database that holds no search",
        "{db} restore monday.backup --dir $HOME/kd-new",
    ),
    "upgrade": Action(
        _upgrade,
        _upgrade_flags,
        "bring the tables of a database to this program's version",
        "{db} upgrade --dir $HOME/kd-database",
    ),
}
