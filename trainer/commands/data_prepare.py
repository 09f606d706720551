"""`python -m trainer data prepare`: the cases of data sets of volumes brought into the cache before anything trains."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainer.cli.numbers import whole
from trainer.cli.parser import CommandLine
from trainer.cli.progress import Counting
from trainer.commands.data_lines import recorded
from trainer.config import DataConfig, VolumeData
from trainer.data.downloads.disk_space import readable
from trainer.data.files import some
from trainer.data.splits.draw import kind_of
from trainer.data.splits.split import read_split, samples
from trainer.errors import DataError, counted
from trainer.repository import expand
from trainer.run_file import read

if TYPE_CHECKING:
    from trainer.data.volumes.case import PreparedCase

CACHE = Path("cache")


class _Set(NamedTuple):
    """A file that names cases, and what is said of them."""

    file: Path
    config: VolumeData
    root: Path
    split: Path


def add_arguments(subparsers: "argparse._SubParsersAction[CommandLine]") -> None:
    """Add `prepare` below `python -m trainer data`."""
    prepare = subparsers.add_parser(
        "prepare",
        help="prepare the volumes of a study or a split before it trains",
        description="Turn, resample, window, crop and keep every case of data sets of volumes, as training does by\n"
        "itself at its first use. What lies in the cache is compared with its sums; what is interrupted goes on.",
        epilog="example:\n  python -m trainer data prepare studies/abdomen.toml --jobs 2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prepare.add_argument(
        "files", nargs="+", type=Path, metavar="STUDY_OR_SPLIT", help="a study file, or a split file with its record"
    )
    prepare.add_argument("--root", type=Path, help="folder that the paths of a split file start from")
    prepare.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIR", help="where cases are kept (default: %(default)s)"
    )
    prepare.add_argument(
        "--jobs",
        type=whole(1),
        metavar="N",
        help="cases at once, each with its own memory (default: the cores, 4 at most)",
    )
    prepare.set_defaults(data_command="prepare")


def main(args: argparse.Namespace) -> int:
    """Run `prepare`: 0. Raises DataError, UserError."""
    sets = [_set(file, args.root) for file in args.files]  # before the first is begun
    for each in sets:
        _prepare(each, args.cache, args.jobs)
    return 0


def _set(file: Path, root: Path | None) -> _Set:
    """What a file names. Raises DataError, UserError."""
    if file.suffix.lower() != ".csv":
        if root is not None:
            raise DataError(f"--root {root}: has no effect on {file}, which has data.root; leave it out")
        config = _volumes(file, read(file).run.data)
        return _Set(file, config, _folder(expand(config.root, "data.root"), "data.root"), _split_of(config))
    if root is None:
        raise DataError(f"--root: missing; name the folder that the paths of {file} start from")
    record = file.with_suffix(".json")
    settings = recorded(file)
    if settings is None:
        raise DataError(
            f"{file}: no record {record.name} beside it says what its files hold; draw it with `python -m trainer data "
            "split`, or give the study file"
        )
    return _Set(file, _volumes(file, kind_of(settings, str(record))), _folder(root, "--root"), file)


def _volumes(file: Path, config: DataConfig) -> VolumeData:
    if not isinstance(config, VolumeData):
        raise DataError(f"{file}: data.name = {config.name!r}: pictures need no such step; volumes are prepared")
    return config


def _split_of(config: VolumeData) -> Path:
    split = expand(config.split, "data.split")
    if not split.is_file():
        raise DataError(f"data.split = {config.split!r}: no such file {split.absolute()}")
    return split


def _folder(folder: Path, field: str) -> Path:
    if not folder.is_dir():
        raise DataError(f"{field} = {str(folder)!r}: no such folder")
    return folder


def _prepare(each: _Set, cache: Path, jobs: int | None) -> None:
    from trainer.data.volumes.prepare import FOLDER, case_files, prepare_cases

    rows = read_split(each.split, each.root)
    cases = [
        (sample.name, each.root / row.image, each.root / row.mask)
        for sample, row in zip(samples(rows), rows, strict=True)
    ]
    files = case_files(cases, each.config.channels, progress=Counting("hashing files"))
    done = prepare_cases(each.config, files, cache=cache, progress=Counting("preparing cases"), jobs=jobs, sums=True)
    for line in remark_lines(done.cases):
        print(line)
    size = sum(file.stat().st_size for case in done.cases if case.folder for file in case.folder.iterdir())
    again = f", {len(done.damaged)} of them again, since they were damaged" if done.damaged else ""
    next_step = (
        f"python -m search validate {each.file}"
        if each.file != each.split
        else f"python -m search init {each.root} --split {each.file}"
    )
    print(
        f"{each.file}  {counted(len(done.cases), 'case')}: {done.fresh} prepared{again}, {len(files) - done.fresh} were"
        f" there; {readable(size)} in {cache / FOLDER}; next: {next_step}"
    )


def remark_lines(cases: "Sequence[PreparedCase]") -> list[str]:
    """A line a remark, with the cases that have it; numbers in remarks keep their cases apart."""
    alike: dict[str, list[str]] = {}
    for case in cases:
        for remark in case.remarks:
            alike.setdefault(remark, []).append(case.name)
    return [f"warning: {some(names)}: {remark}" for remark, names in alike.items()]
