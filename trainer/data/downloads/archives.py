"""Archives that nobody trusts: every member is looked at before one is written, and nothing lands outside.

zip and tar (plain, gzip, bzip2, xz). Refused as a whole: names that are absolute or lead out with `..`, links, devices
and pipes, two members of one name, encrypted ones, more members than `MOST_MEMBERS`, and more bytes than fit on the
disk or than a member announces. Members are written into a hidden folder beside their place and renamed at the end.
"""

import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from trainer.atomic_files import private_folder
from trainer.cli.progress import counted_items
from trainer.data.downloads.disk_space import require_room
from trainer.data.files import some
from trainer.errors import DataError, one_line

MOST_MEMBERS = 200_000
"""Far more than any data set of the table has."""
CHUNK = 1024 * 1024
SPARE = frozenset({"__MACOSX", ".DS_Store", "Thumbs.db"})
"""What the programs that made an archive left in it."""
_DRIVE = re.compile(r"[A-Za-z]:")
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)


class Member(NamedTuple):
    """A file of an archive."""

    parts: tuple[str, ...]
    """Its path below the archive's root."""
    size: int
    """Bytes that it announces."""
    open: Callable[[], IO[bytes]]

    @property
    def name(self) -> str:
        """Its path as text."""
        return "/".join(self.parts)


class Unpacked(NamedTuple):
    """What came of an archive."""

    written: int
    """Files that were written."""
    there: int
    """Files that were there already, with the size of the archive's."""
    left: int
    """Files that belong to no data set."""


def unpack(archive: Path, folder: Path) -> Unpacked:
    """Unpack an archive into a folder, which is made where it is missing.

    What lies there already and is whole stays; what is there and differs is refused. Raises DataError, OSError.
    """
    private_folder(folder)
    with _opened(archive) as everything:
        members = [member for member in everything if not SPARE & set(member.parts)]
        _refuse_doubles(archive, members)
        tops = {member.parts[0] for member in members}
        there = {top for top in tops if (folder / top).exists() or (folder / top).is_symlink()}
        _refuse_other_files(archive, folder, [member for member in members if member.parts[0] in there])
        wanted = [member for member in members if member.parts[0] not in there]
        require_room(folder, sum(member.size for member in wanted), f"unpacking {archive.name}")
        _write_all(archive, folder, wanted)
        return Unpacked(len(wanted), len(members) - len(wanted), len(everything) - len(members))


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    """The files of an archive, all of them checked. Raises DataError."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                yield list(_zip_members(archive, file))
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as bundle:
                yield list(_tar_members(archive, bundle))
        else:
            raise DataError(f"{archive}: not a zip or tar archive; remove it, then repeat")
    except _DAMAGED as error:
        raise DataError(f"{archive}: damaged ({one_line(error)}); remove it, then repeat") from None


def _zip_members(archive: Path, file: zipfile.ZipFile) -> Iterator[Member]:
    for number, info in enumerate(file.infolist()):
        _refuse_many(archive, number)
        kind = stat.S_IFMT(info.external_attr >> 16)
        parts = _parts(archive, info.orig_filename)
        if kind == stat.S_IFLNK:
            raise _refused(archive, info.filename, "a link")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refused(archive, info.filename, "no plain file")
        if info.flag_bits & 1:
            raise _refused(archive, info.filename, "encrypted")
        if parts and not info.orig_filename.endswith(("/", "\\")):

            def opens(info: zipfile.ZipInfo = info) -> IO[bytes]:
                return file.open(info)

            yield Member(parts, info.file_size, opens)


def _tar_members(archive: Path, bundle: tarfile.TarFile) -> Iterator[Member]:
    for number, info in enumerate(bundle):
        _refuse_many(archive, number)
        parts = _parts(archive, info.name)
        if info.issym() or info.islnk():
            raise _refused(archive, info.name, "a link")
        if not (info.isreg() or info.isdir()):
            raise _refused(archive, info.name, "no plain file")
        if info.isreg() and parts:

            def opens(info: tarfile.TarInfo = info) -> IO[bytes]:
                taken = bundle.extractfile(info)
                if taken is None:
                    raise _refused(archive, info.name, "no plain file")
                return taken

            yield Member(parts, info.size, opens)


def _refuse_many(archive: Path, number: int) -> None:
    if number >= MOST_MEMBERS:
        raise DataError(f"{archive}: holds more than {MOST_MEMBERS} members; nothing was unpacked")


def _refused(archive: Path, name: str, cause: str) -> DataError:
    return DataError(f"{archive}: its member {name!r} is {cause}; nothing was unpacked: do not trust this archive")


def _parts(archive: Path, name: str) -> tuple[str, ...]:
    """A member's path, which stays below the archive's root. Raises DataError."""
    plain = name.replace("\\", "/")
    if plain.startswith("/") or _DRIVE.match(plain):
        raise _refused(archive, name, "an absolute path")
    if "\0" in plain:
        raise _refused(archive, name, "a name with a zero byte")
    parts = tuple(part for part in plain.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _refused(archive, name, "a path that leads out with '..'")
    return parts


def _refuse_doubles(archive: Path, members: Iterable[Member]) -> None:
    """Two members of one path, or a file that is the folder of another."""
    files: set[tuple[str, ...]] = set()
    for member in members:
        if member.parts in files:
            raise _refused(archive, member.name, "there twice")
        files.add(member.parts)
    for parts in files:
        if any(parts[:end] in files for end in range(1, len(parts))):
            raise _refused(archive, "/".join(parts), "below a file")


def _refuse_other_files(archive: Path, folder: Path, members: list[Member]) -> None:
    """What is there has to be what the archive holds, by names and sizes."""
    other = [member.name for member in members if not _is_whole(folder.joinpath(*member.parts), member.size)]
    if other:
        tops = sorted({member.parts[0] for member in members})
        raise DataError(
            f"{folder / tops[0]}: is there, but {len(other)} of {len(members)} files of {archive.name} are missing or "
            f"of another size ({some(other)}); move it away, then repeat"
        )


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write_all(archive: Path, folder: Path, members: list[Member]) -> None:
    """Write members beside their place and rename them; where one is bad nothing stays."""
    beside = folder / f".{archive.name}.unpacking"
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    beside.mkdir()
    try:
        for member in counted_items(f"unpacking {archive.name}", members, len(members)):
            _write(archive, member, beside.joinpath(*member.parts))
        for path in sorted(beside.iterdir()):
            path.rename(folder / path.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write(archive: Path, member: Member, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with member.open() as source, path.open("xb") as file:
        while chunk := source.read(CHUNK):
            size += len(chunk)
            if size > member.size:
                break
            file.write(chunk)
    if size != member.size:
        cause = "longer" if size > member.size else "shorter"
        raise _refused(archive, member.name, f"{cause} than the {member.size} bytes that it announces")
