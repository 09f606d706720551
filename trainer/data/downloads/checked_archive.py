"""One archive on the disk, with a checksum: downloaded by pooch, compared with the table or with the first download.

`SHA256SUMS` beside the archives holds the hash of each as it first came and was whole, in the form that `sha256sum -c`
reads.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import pooch
from filelock import FileLock, Timeout
from pooch.hashes import file_hash, hash_matches

from trainer.atomic_files import private_folder, write_text
from trainer.data.downloads.sources import Archive
from trainer.data.downloads.transfer import Transfer
from trainer.errors import DataError

SUMS = "SHA256SUMS"
SHA256 = "sha256"


class CheckedArchive(NamedTuple):
    """An archive whose hash is known."""

    path: Path
    sha256: str
    trust: str
    """What the hash was compared with, as a phrase."""


def checked_archive(archive: Archive, folder: Path, page: str) -> CheckedArchive:
    """The archive in a folder: what is there is compared, what is missing is downloaded, or gone on with.

    page: where a person gets it by hand. Raises DataError: another process is at it, the server refuses or the
    connection ends, the disk is too small, the hash is another one.
    """
    private_folder(folder)
    try:
        with FileLock(folder / f".{archive.name}.lock", timeout=0):
            return _checked(archive, folder, page)
    except Timeout:
        raise DataError(f"{folder / archive.name}: another process downloads it; wait for that one") from None


def _checked(archive: Archive, folder: Path, page: str) -> CheckedArchive:
    path, first = folder / archive.name, recorded_sums(folder).get(archive.name)
    known = archive.digest or (None if first is None else f"{SHA256}:{first}")
    if path.exists():
        if not hash_matches(str(path), known):
            raise DataError(f"{path}: {_differs(archive, known, path, folder)}; remove it, then repeat")
    else:
        by_hand = f"download {archive.name} by hand ({page}), put it into {folder}, then repeat"
        _download(archive, path, known, Transfer(path.with_name(f"{path.name}.part"), by_hand))
    digest = _digest_of(path, known)
    if first is not None and first != digest:
        raise DataError(f"{path}: {_differs(archive, f'{SHA256}:{first}', path, folder)}; remove it, then repeat")
    if archive.digest is not None:
        return CheckedArchive(path, digest, archive.origin)
    trust = "unverified, kept to be compared with" if first is None else "as at the first download"
    return CheckedArchive(path, digest, trust)


def _download(archive: Archive, path: Path, known: str | None, transfer: Transfer) -> None:
    """Bring an archive to its final name; only a whole file with the known hash gets it. Raises DataError."""
    pooch.get_logger().setLevel(logging.WARNING)  # the command says itself what it does
    registry = pooch.Pooch(path.parent, base_url="", registry={path.name: known}, urls={path.name: archive.url})
    arrived = path.with_name(f"{path.name}.part")
    try:
        registry.fetch(path.name, downloader=transfer)
    except ValueError:  # pooch: another hash
        cause = _differs(archive, known, arrived, path.parent) if arrived.exists() else "its hash is another one"
        transfer.discard()
        raise DataError(f"{archive.url}: {cause}; the download was removed") from None
    transfer.discard()


def _differs(archive: Archive, known: str | None, path: Path, folder: Path) -> str:
    """What a file's hash is and should be, and who says so."""
    kind, expected = _split(known or "")
    who = f"{archive.origin}" if known == archive.digest else f"as {folder / SUMS} has it from the first download"
    return f"its {kind} is {file_hash(str(path), alg=kind)}, expected {expected} ({who})"


def _split(digest: str) -> tuple[str, str]:
    kind, colon, value = digest.rpartition(":")
    return (kind, value) if colon else (SHA256, digest)


def _digest_of(path: Path, known: str | None) -> str:
    """The sha256 of a file whose known hash was just compared."""
    kind, value = _split(known or "")
    return value if value and kind == SHA256 else str(file_hash(str(path), alg=SHA256))


def recorded_sums(folder: Path) -> dict[str, str]:
    """Archive -> sha256 of its first download. Raises DataError where the file holds something else."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    lines = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    if any(len(fields) != 2 or len(fields[0]) != 64 for fields in lines):
        raise DataError(f"{path}: expected lines `SHA256  NAME`; mend or remove it")
    return {name: digest for digest, name in lines}


def record_sum(checked: CheckedArchive) -> None:
    """Keep the hash of an archive that could be unpacked, so that the next download is compared with it."""
    folder, name = checked.path.parent, checked.path.name
    sums = recorded_sums(folder)
    if sums.get(name) != checked.sha256:
        sums[name] = checked.sha256
        write_text(folder / SUMS, "".join(f"{each}  {archive}\n" for archive, each in sorted(sums.items())))
