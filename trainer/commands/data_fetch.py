"""`python -m trainer data fetch`: a known data set on the disk, downloaded or put there by a person, and checked."""

import argparse
import shlex
from pathlib import Path

from trainer.cli.parser import CommandLine
from trainer.data.downloads.archives import unpack
from trainer.data.downloads.contents import Count, counts_in, is_complete
from trainer.data.downloads.disk_space import readable
from trainer.data.downloads.sources import SOURCES, Source
from trainer.data.layouts import data_folders
from trainer.errors import DataError, nearest

ARCHIVES = "archives"
"""Folder below the root in which archives stay, one folder a data set."""
INCOMPLETE = 1
"""The exit code where a data set is not there yet."""


def add_arguments(subparsers: "argparse._SubParsersAction[CommandLine]") -> None:
    """Add `fetch` below `python -m trainer data`."""
    fetch = subparsers.add_parser(
        "fetch",
        help="download a known data set, or say how to get one that is closed",
        description="Download a data set, compare its checksum, unpack and count it. For one behind a registration,\n"
        "say where, and which files to put where, and check them once they are there. Without a name: list all.\n"
        "An interrupted download goes on where it stopped. Exit code 1 where the data set is not there yet.",
        epilog="example:\n  python -m trainer data fetch kvasir-seg $HOME/data",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fetch.add_argument("name", nargs="?", metavar="NAME", help="the data set (default: list them)")
    fetch.add_argument("root", nargs="?", type=Path, metavar="ROOT", help="the folder in which its folder is made")
    fetch.set_defaults(data_command="fetch")


def main(args: argparse.Namespace) -> int:
    """Run `fetch`: 0, or 1 where the data set is not there yet. Raises DataError."""
    if args.name is None:
        _list()
        return 0
    if args.name not in SOURCES:
        raise DataError(f"data set {args.name!r}: unknown{nearest(args.name, SOURCES)}")
    if args.root is None:
        raise DataError(f"ROOT: missing; name the folder in which {SOURCES[args.name].folder}/ is to lie")
    source, root = SOURCES[args.name], args.root.absolute()
    folder = root / source.folder
    print(f"{source.title}\nterms     {source.licence}\nfrom      {source.page}")
    archives = root / ARCHIVES / args.name
    if not is_complete(counts_in(folder, source)) or any((archives / each.name).exists() for each in source.archives):
        _bring(source, folder, archives)
    counts = counts_in(folder, source)
    _print_counts(folder, counts)
    if not is_complete(counts):
        return INCOMPLETE
    _print_next(args.name, folder)
    return 0


def _list() -> None:
    width = max(map(len, SOURCES))
    for name, source in SOURCES.items():
        how = "download" if source.archives else "by hand"
        unverified = sum(archive.digest is None for archive in source.archives)
        how += f", {unverified} of {len(source.archives)} archives unverified" if unverified else ""
        print(f"{name:{width}}  {source.title}; {how}; {source.licence}")


def _bring(source: Source, folder: Path, archives: Path) -> None:
    """Download and unpack, or say what a person does."""
    if not source.archives:
        print("by hand   a program cannot download this data set:")
        for number, step in enumerate((f"register or read on at {source.page}", *source.steps), 1):
            print(f"  {number}. {step}")
        print(f"  {len(source.steps) + 2}. the folder is {folder}; then run this command again, which checks it")
        return
    try:
        from trainer.data.downloads.checked_archive import checked_archive, record_sum
    except ModuleNotFoundError as error:
        if error.name != "pooch":
            raise
        raise DataError("the package pooch is not installed; remedy: pip install 'kd-search[fetch]'") from None
    size = 0
    for archive in source.archives:
        checked = checked_archive(archive, archives, source.page)
        size += checked.path.stat().st_size
        print(f"archive   {archive.name}: sha256 {checked.sha256} ({checked.trust})")
        done = unpack(checked.path, folder.parent if source.beside else folder)
        record_sum(checked)
        there = f", {done.there} were there" if done.there else ""
        left = f", {done.left} left out" if done.left else ""
        print(f"unpacked  {done.written} files{there}{left}")
    print(f"archives  {archives} ({readable(size)}), not needed once the data set is complete")


def _print_counts(folder: Path, counts: list[Count]) -> None:
    print(f"folder    {folder}{'' if folder.is_dir() else ' (not there yet)'}")
    for count in counts if folder.is_dir() else []:
        missing = f": {count.expected - count.there} are missing" if count.short else ""
        print(f"  {count.pattern}  {count.there} of {count.expected}{missing}")


def _print_next(name: str, folder: Path) -> None:
    """Which layout is recognised, and the command that comes next."""
    try:
        sets = data_folders(folder)
    except DataError as error:
        print(f"layout    none is recognised ({error})")
        return
    for each in sets:
        print(f"layout    {each}")
    place = sets[0].folder if len(sets) == 1 else folder
    print(f"next: {shlex.join(['python', '-m', 'search', 'init', str(place), '--name', name])}")
