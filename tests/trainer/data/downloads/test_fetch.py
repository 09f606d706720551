"""`trainer data fetch` against a server on this machine: whole, cut, changed, damaged, closed; and what it says."""

import hashlib
import io
import os
import re
import shlex
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock
from PIL import Image

from trainer.__main__ import main
from trainer.cli.entry import guard
from trainer.commands import data_fetch
from trainer.data.downloads.sources import SOURCES, Archive, Source
from trainer.data.layouts import LAYOUTS
from trainer.data.sets.blobs import draw

README = (Path(__file__).parents[4] / "README.md").read_text()
NAME = "kvasir-seg.zip"


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


@pytest.fixture(scope="module")
def polyps() -> bytes:
    """Kvasir-SEG as it is shipped, with three drawn pictures."""
    files = {"Kvasir-SEG/kavsir_bboxes.json": b"{}", "__MACOSX/Kvasir-SEG/._images": b"spare"}
    for number in range(3):
        for part, pixels in zip(("images", "masks"), draw(number, 64), strict=True):
            out = io.BytesIO()
            Image.fromarray(pixels if part == "images" else pixels * 255).save(out, "JPEG")
            files[f"Kvasir-SEG/{part}/{number}.jpg"] = out.getvalue()
    return zipped(**files)


def small(shop, digest: str | None = None, **changes) -> Source:
    """The table's Kvasir-SEG, from this machine and with three pictures."""
    known = SOURCES["kvasir-seg"]
    terms = {"title": known.title, "licence": known.licence, "page": known.page, "folder": known.folder}
    forms = ({"images/*.jpg": 3, "masks/*.jpg": 3},)
    table = {"forms": forms, "archives": (Archive(f"{shop.url}/{NAME}", digest, "as the test has it"),), "beside": True}
    return Source(**{**terms, **table, **changes})


@pytest.fixture
def fetch(shop, polyps, tmp_path, monkeypatch, capsys):
    """Type the command; returns exit code, stdout and stderr."""
    shop.files[NAME] = polyps
    monkeypatch.setenv("HOME", str(tmp_path))
    table = {"kvasir-seg": small(shop, f"sha256:{hashlib.sha256(polyps).hexdigest()}")}
    monkeypatch.setattr(data_fetch, "SOURCES", table)

    def type_in(words: str = "kvasir-seg $HOME/data") -> SimpleNamespace:
        arguments = ["data", "fetch", *shlex.split(os.path.expandvars(words))]
        code = guard(lambda: main(arguments))
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    type_in.table = table
    type_in.part = tmp_path / "data/archives/kvasir-seg" / f"{NAME}.part"
    type_in.archive = tmp_path / "data/archives/kvasir-seg" / NAME
    return type_in


def one_line(done: SimpleNamespace, *parts: str) -> None:
    assert done.code == 2, done
    assert len(done.err.splitlines()) == 1, done.err
    for part in ("error: ", *parts):
        assert part in done.err


def test_the_commands_of_the_readme_list_and_fetch(fetch, shop, tmp_path):
    listing, whole = re.findall(r"^\$ python -m trainer data fetch ?(.*)$", README, flags=re.MULTILINE)
    listed = fetch(listing)
    assert (listed.code, listed.err) == (0, "")
    assert "kvasir-seg" in listed.out
    done = fetch(whole)
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "data/Kvasir-SEG/images").iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    assert not (tmp_path / "data/__MACOSX").exists()
    assert "unpacked  7 files, 1 left out" in done.out
    assert "images/*.jpg  3 of 3" in done.out
    assert "layout    Kvasir-SEG: Kvasir-SEG: polyps (kvasir-seg): it has images, masks" in done.out
    assert f"next: python -m search init {tmp_path}/data/Kvasir-SEG --name kvasir-seg" in done.out
    sums = (fetch.archive.parent / "SHA256SUMS").read_text()
    assert sums == f"{hashlib.sha256(shop.files[NAME]).hexdigest()}  {NAME}\n"
    assert not list(tmp_path.rglob("*.part*"))
    again = fetch(whole)
    assert (again.code, len(shop.asked)) == (0, 1)
    assert "unpacked  0 files, 7 were there" in again.out
    fetch.archive.unlink()
    assert (fetch(whole).code, len(shop.asked)) == (0, 1), "the data set is whole without its archive"


def test_a_download_that_was_cut_goes_on(fetch, shop, polyps, tmp_path):
    shop.cut = 2000
    one_line(fetch(), "the connection ended after 2000 of", "the same command goes on from there")
    assert (fetch.part.stat().st_size, fetch.archive.exists(), (tmp_path / "data/Kvasir-SEG").exists()) == (
        2000,
        False,
        False,
    )
    done = fetch()
    assert done.code == 0
    assert f"{NAME}.part: goes on at 2000 of {len(polyps)} bytes" in done.err
    assert shop.asked[1]["Range"] == "bytes=2000-"
    assert fetch.archive.read_bytes() == polyps


def test_an_interrupt_keeps_what_has_arrived(fetch, shop, polyps):
    shop.cut, shop.interrupts = 3000, fetch.part
    done = fetch()
    assert done.code == 130
    assert f"3000 of {len(polyps)} bytes" in done.err
    assert fetch.part.stat().st_size == 3000
    assert fetch().code == 0
    assert shop.asked[1]["Range"] == "bytes=3000-"


def test_a_server_that_does_not_resume_sends_all_again(fetch, shop, polyps):
    shop.cut, shop.resumes = 2000, False
    assert fetch().code == 2
    done = fetch()
    assert (done.code, done.err) == (0, f"{NAME}.part: the server does not resume; begins again\n")
    assert fetch.archive.read_bytes() == polyps


def test_a_file_that_changed_meanwhile_begins_again(fetch, shop, polyps):
    shop.cut = 2000
    assert fetch().code == 2
    shop.files[NAME] = polyps + b"longer"
    fetch.table["kvasir-seg"] = small(shop)
    done = fetch()
    assert (done.code, done.err) == (0, f"{NAME}.part: the file changed on the server; begins again\n")
    assert fetch.archive.read_bytes() == polyps + b"longer"


def test_another_range_than_was_asked_for_is_not_appended(fetch, shop, polyps):
    shop.cut, shop.shift = 2000, 100
    assert fetch().code == 2
    assert (fetch().code, len(shop.asked)) == (0, 3)
    assert fetch.archive.read_bytes() == polyps


def test_another_hash_leaves_nothing(fetch, shop, polyps, tmp_path):
    shop.files[NAME] = polyps[:-1] + b"!"
    digest = hashlib.sha256(polyps).hexdigest()
    one_line(fetch(), "its sha256 is ", f"expected {digest} (as the test has it)", "the download was removed")
    assert [path.name for path in fetch.archive.parent.iterdir() if path.name[0] != "."] == []
    assert not (tmp_path / "data/Kvasir-SEG").exists()
    fetch.archive.write_bytes(b"put there by hand")
    one_line(fetch(), "its sha256 is ", "remove it, then repeat")
    assert fetch.archive.read_bytes() == b"put there by hand"


def test_the_first_hash_of_an_unverified_archive_is_compared_the_next_time(fetch, shop, polyps):
    fetch.table["kvasir-seg"] = small(shop)
    assert "unverified" in fetch("").out
    assert "unverified, kept to be compared with" in fetch().out
    assert "as at the first download" in fetch().out
    fetch.archive.unlink()
    fetch.table["kvasir-seg"] = small(shop, forms=({"images/*.jpg": 4},))
    shop.files[NAME] = polyps + b"other"
    one_line(fetch(), "SHA256SUMS has it from the first download", "the download was removed")
    assert not fetch.archive.exists()


def test_an_unverified_archive_that_is_damaged_is_not_remembered(fetch, shop, polyps):
    fetch.table["kvasir-seg"] = small(shop)
    shop.files[NAME] = polyps[:-100]
    one_line(fetch(), str(fetch.archive), "remove it, then repeat")
    assert not (fetch.archive.parent / "SHA256SUMS").exists()
    fetch.archive.unlink()
    shop.files[NAME] = polyps
    assert fetch().code == 0


@pytest.mark.parametrize(("blocks", "purpose"), [(16_000, "the download of http://"), (16_384, "unpacking kvasir")])
def test_what_does_not_fit_on_the_disk_is_not_begun(fetch, monkeypatch, tmp_path, blocks, purpose, polyps):
    if purpose.startswith("unpacking"):
        fetch.archive.parent.mkdir(parents=True)
        fetch.archive.write_bytes(polyps)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=blocks, f_frsize=4096))
    one_line(fetch(), purpose, " are free; make room")
    assert not (tmp_path / "data/Kvasir-SEG").exists()
    assert not fetch.part.exists()


def test_a_login_page_is_no_archive_and_one_got_by_hand_is_taken(fetch, shop, polyps):
    shop.kind = "text/html; charset=utf-8"
    one_line(fetch(), "a web page", f"download {NAME} by hand", str(fetch.archive.parent))
    fetch.archive.write_bytes(polyps)
    assert fetch().code == 0
    assert len(shop.asked) == 1


def test_what_the_server_does_not_have_is_one_line(fetch, shop):
    shop.files.clear()
    one_line(fetch(), "HTTP 404", f"download {NAME} by hand")
    shop.shutdown()
    shop.socket.close()
    one_line(fetch(), "cannot be reached")


def test_a_folder_with_other_files_stays_as_it_is(fetch, tmp_path):
    other = tmp_path / "data/Kvasir-SEG/images/0.jpg"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"my own")
    one_line(fetch(), "is there, but 7 of 7 files", "move it away")
    assert [path for path in other.parents[1].rglob("*") if path.is_file()] == [other]


def test_a_closed_data_set_says_what_to_do_and_is_checked(fetch, shop, tmp_path):
    fetch.table["kvasir-seg"] = small(shop, archives=(), steps=("unpack its archive",))
    done = fetch()
    assert (done.code, shop.asked) == (1, [])
    for part in (
        "1. register or read on at https://",
        "2. unpack its archive",
        f"the folder is {tmp_path}/data/",
    ):
        assert part in done.out
    for part in ("images", "masks"):
        (tmp_path / "data/Kvasir-SEG" / part).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "data/Kvasir-SEG" / part / f"{number}.jpg").touch()
    spare = tmp_path / "data/Kvasir-SEG/masks/2.jpg"
    spare.unlink()
    short = fetch()
    assert (short.code, "masks/*.jpg  2 of 3: 1 are missing" in short.out) == (1, True)
    spare.touch()
    whole = fetch()
    assert (whole.code, "by hand" in whole.out, "next: " in whole.out) == (0, False, True)


def test_two_processes_do_not_download_the_same(fetch, shop):
    fetch.archive.parent.mkdir(parents=True)
    with FileLock(fetch.archive.with_name(f".{NAME}.lock")):
        one_line(fetch(), "another process downloads it")
    assert shop.asked == []


def test_mistakes_are_one_line(fetch):
    one_line(fetch("kvasir $HOME/data"), "data set 'kvasir': unknown", "kvasir-seg")
    one_line(fetch("kvasir-seg"), "ROOT: missing", "Kvasir-SEG/")


def test_the_table_is_whole():
    for name, source in SOURCES.items():
        assert name in LAYOUTS
        assert source.licence
        assert source.page.startswith("http")
        assert all(form and min(form.values()) > 0 for form in source.forms)
        assert source.archives or source.steps
        for archive in source.archives:
            assert archive.url.startswith("https://")
            digest = re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", archive.digest or "")
            assert (digest is not None) == bool(archive.digest) == bool(archive.origin)
