"""Archives that lie: each is refused in one line, and nothing of it lands anywhere."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from trainer.data.downloads import archives
from trainer.data.downloads.archives import unpack
from trainer.errors import DataError


def zip_of(path: Path, *members: tuple[str, int]) -> None:
    """A zip of members by name and mode."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode in (("set/good.txt", stat.S_IFREG), *members):
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | 0o644) << 16
            archive.writestr(info, b"harmless")


def tar_of(path: Path, name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
    with tarfile.open(path, "w:gz") as archive:
        for each, its in (("set/good.txt", tarfile.REGTYPE), (name, kind)):
            info = tarfile.TarInfo(each)
            info.type, info.linkname, info.size = its, target, 8 if its == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"harmless"))


def entries(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


FILE, LINK, PIPE = stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO
ZIPS = {
    "a path that leads out": ("../outside.txt", FILE),
    "leads out with '..'": ("set/../../outside.txt", FILE),
    "that leads out with": ("set\\..\\..\\outside.txt", FILE),
    "an absolute path": ("/tmp/outside.txt", FILE),  # noqa: S108 - refused
    "absolute path": ("C:\\outside.txt", FILE),
    "a link": ("set/link", LINK),
    "no plain file": ("set/pipe", PIPE),
    "below a file": ("set/good.txt/inner.txt", FILE),
}
TARS = {
    "a path that leads out": ("../outside.txt", tarfile.REGTYPE),
    "an absolute path": ("/tmp/outside.txt", tarfile.REGTYPE),  # noqa: S108 - refused
    "a link": ("set/link", tarfile.SYMTYPE),
    "is a link": ("set/hard", tarfile.LNKTYPE),
    "no plain file": ("set/device", tarfile.CHRTYPE),
    "is no plain file": ("set/pipe", tarfile.FIFOTYPE),
    "there twice": ("./set/good.txt", tarfile.REGTYPE),
}


def refused(path: Path, cause: str) -> None:
    folder = path.parent / "into"
    with pytest.raises(DataError, match=cause) as error:
        unpack(path, folder)
    assert "\n" not in str(error.value)
    assert entries(path.parent) == sorted([path.name, "into"])


@pytest.mark.parametrize("cause", ZIPS)
def test_a_zip_with_a_bad_member_is_refused(tmp_path, cause):
    zip_of(tmp_path / "bad.zip", ZIPS[cause])
    refused(tmp_path / "bad.zip", cause)


@pytest.mark.parametrize("cause", TARS)
def test_a_tar_with_a_bad_member_is_refused(tmp_path, cause):
    tar_of(tmp_path / "bad.tar.gz", *TARS[cause], target="../../outside.txt")
    refused(tmp_path / "bad.tar.gz", cause)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_members_are_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives, "MOST_MEMBERS", 1)
    path = tmp_path / f"many.{kind}"
    (zip_of(path, ("set/b", FILE)) if kind == "zip" else tar_of(path, "set/b"))
    refused(path, "holds more than 1 members")


def test_a_member_that_is_longer_than_it_announces_is_refused(tmp_path):
    path = tmp_path / "long.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/zeros.txt", bytes(100_000))
    data = path.read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(data)
    refused(path, "damaged")


@pytest.mark.parametrize("size", [-60, 40])
def test_a_damaged_archive_is_refused(tmp_path, size):
    tar_of(tmp_path / "bad.tar.gz", "set/other.txt")
    data = (tmp_path / "bad.tar.gz").read_bytes()
    (tmp_path / "bad.tar.gz").write_bytes(data[:size])
    refused(tmp_path / "bad.tar.gz", "damaged|not a zip or tar")


def test_a_good_archive_is_unpacked_once(tmp_path):
    tar_of(tmp_path / "good.tar.gz", "set/inner/other.txt")
    folder = tmp_path / "into"
    assert unpack(tmp_path / "good.tar.gz", folder) == (2, 0, 0)
    assert entries(folder) == ["set", "set/good.txt", "set/inner", "set/inner/other.txt"]
    assert unpack(tmp_path / "good.tar.gz", folder) == (0, 2, 0)
