"""What a machine refuses a command, and how that ends: with one line, never with a traceback."""

import errno
import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from trainer.cli.entry import guard


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EACCES, "see its rights"),
        (errno.EROFS, "can be written"),
    ],
)
def test_what_the_machine_refuses_is_one_line_with_the_place_and_the_remedy(capfd, number, remedy):
    def refused() -> int:
        raise OSError(number, os.strerror(number), "/a/place")

    assert guard(refused) == 2
    line = capfd.readouterr().err
    assert line.startswith(f"error: /a/place: {os.strerror(number)}; ")
    assert remedy in line
    assert line.count("\n") == 1
    with pytest.raises(OSError, match="/a/place"):
        guard(refused, names_refusals=False)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EEXIST, "a file is where a folder is needed"),
        (errno.ENOTDIR, "a file is where a folder is needed"),
        (errno.EISDIR, "a folder is where a file is needed"),
    ],
)
def test_what_is_in_the_way_is_said_in_place_of_file_exists(capfd, number, reason):
    def refused() -> int:
        raise OSError(number, os.strerror(number), "/a/place")

    assert guard(refused) == 2
    assert capfd.readouterr().err == f"error: /a/place: {reason}; name another place\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_memory_limit_is_one_line_and_another_bug_is_not(capfd, error):
    def refused() -> int:
        raise error

    assert guard(refused) == 2
    line = capfd.readouterr().err
    assert line.startswith("error: memory is not enough: ")
    assert line.count("\n") == 1
    with pytest.raises(type(error)):
        guard(refused, names_refusals=False)


def test_an_error_of_another_kind_keeps_its_traceback_under_a_memory_limit():
    def broken() -> int:
        raise RuntimeError("another bug")

    with pytest.raises(RuntimeError, match="another bug"):
        guard(broken)


def test_an_interrupt_that_a_callback_swallows_comes_again(capfd):
    """As where Ctrl-C comes while SQLAlchemy forgets a listener: reported as ignored, and the command went on."""

    class Thing:
        pass

    def swallow(_: object) -> None:
        raise KeyboardInterrupt

    def main() -> int:
        thing = Thing()
        watched = weakref.ref(thing, swallow)
        del thing
        time.sleep(5)
        return 0 if watched() is None else 1

    # A process as Python starts it: other tests of this one may have left a handler of theirs.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert guard(main) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capfd.readouterr().err == "interrupted\n"


def test_an_error_of_a_broken_machine_keeps_its_traceback():
    def broken() -> int:
        raise OSError(errno.EIO, "Input/output error", "/a/place")

    with pytest.raises(OSError, match="Input/output"):
        guard(broken)


def shell(repository, command, code):
    words = ["sh", "-c", command, sys.executable, f"import sys; from trainer.cli.entry import guard; sys.exit({code})"]
    return subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)


def test_an_output_that_is_full_is_said(repository):
    done = shell(repository, '"$0" -c "$1" > /dev/full', "guard(lambda: print('done'))")
    assert (done.returncode, done.stderr) == (2, "error: the output: No space left on device; make room, then repeat\n")


def test_a_file_that_cannot_be_written_to_its_end_is_named(repository, tmp_path):
    place = tmp_path / "weights"
    code = f"guard(lambda: write_private(Path('{place}'), 'x' * 9000))"
    more = "; from pathlib import Path; from trainer.atomic_files import write_private"
    done = shell(repository, f'ulimit -f 4; "$0" -c "import sys{more}; $1"', code)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert done.stderr.startswith(f"error: {place}: File too large; raise the limit of a file's size (ulimit -f)")


def test_streams_that_were_closed_before_the_start_are_no_files_number(repository):
    done = shell(repository, '"$0" -c "$1" >&- 2>&- <&-', "guard(lambda: open(sys.executable, 'rb').fileno())")
    assert done.returncode > 2


def test_a_folder_that_was_removed_is_said(repository, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"__import__('os').chdir('{gone}') or __import__('os').rmdir('{gone}') or guard(lambda: 0)"
    done = shell(repository, '"$0" -c "$1"', code)
    assert done.returncode == 2
    assert done.stderr == "error: the folder in which this was started was removed; cd to one that is there\n"
