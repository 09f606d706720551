"""Where ranks meet: on one machine never beyond loopback, and never in what others could have put there."""

import os
import stat
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import HashStore
from torch.distributed.elastic.rendezvous import RendezvousParameters

from trainer.distributed import stores, torchrun
from trainer.distributed.listening import listeners

SOON = timedelta(seconds=5)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", stores.MEETING_FOLDER):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("local", "address", "expected"),
    [("2", "node-7", True), ("2", "127.0.0.1", True), ("1", "127.0.0.1", False)]
    + [(None, address, True) for address in ("127.0.0.1", "localhost", "::1")]
    + [(None, address, False) for address in ("10.0.0.7", "node-7", "")],
)
def test_two_ranks_are_on_one_host_where_their_launcher_says_so(
    local: str | None, address: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if local is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    monkeypatch.setenv("MASTER_ADDR", address)
    assert stores.on_one_host(2) is expected


def test_the_interfaces_of_gloo_and_nccl_are_the_loopback_whatever_a_cluster_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in stores.INTERFACES:
        monkeypatch.setenv(name, "ib0")
    stores.stay_on_loopback()
    assert {os.environ[name] for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")} <= {"lo", "lo0"}


def test_an_agent_of_ours_opens_nothing_and_its_ranks_meet_in_a_private_folder() -> None:
    """In a process of its own, as the folder is removed when the agent's process ends."""
    code = """
import os, stat
from torch.distributed.elastic.rendezvous import RendezvousParameters
from trainer.distributed import stores, torchrun
from trainer.distributed.listening import listeners
agent = torchrun.make_handler(RendezvousParameters(torchrun.BACKEND, "", "none", 1, 1))
first, second = agent.next_rendezvous(), agent.next_rendezvous()
first.store.set("a", "1")
assert not second.store.check(["a"])
assert (second.rank, second.world_size, listeners([os.getpid()])) == (0, 1, [])
folder = os.environ[stores.MEETING_FOLDER]
print(folder, oct(stat.S_IMODE(os.stat(folder).st_mode)))
"""
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."})
    folder, mode = done.stdout.split()
    assert mode == "0o700"
    assert not Path(folder).exists()


def test_an_agent_for_several_machines_is_refused() -> None:
    parameters = RendezvousParameters(torchrun.BACKEND, "", "none", 1, 2)
    with pytest.raises(ValueError, match=r"--nnodes=1:2: .*one machine"):
        torchrun.make_handler(parameters)


def test_ranks_without_an_agent_meet_on_127_0_0_1_alone(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(free_port))
    server = stores.meet("a/0/0", 0, 2, SOON)
    (found,) = (each for each in listeners([os.getpid()]) if each.port == free_port)
    assert str(found.address) == "127.0.0.1"
    client = stores.meet("a/0/0", 1, 2, SOON)
    client.store.set("key", "value")
    assert server.store.get("key") == b"value"
    client.close()
    server.close()


@pytest.mark.parametrize(("host", "port"), [(None, None), ("127.0.0.1", None), ("127.0.0.1", "http")])
def test_a_missing_address_names_the_variables_of_a_launcher(
    host: str | None, port: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("LOCAL_WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", host), ("MASTER_PORT", port)):
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"RANK = 1, WORLD_SIZE is not set, MASTER_ADDR .*MASTER_PORT .*torchrun"):
        stores.meet("a/0/0", 1, 2, SOON)


class TestFolderNamedThroughAnOpenStore:
    """torchrun's store can be written by others, so its word is taken for a number and no more."""

    def test_it_is_private_and_the_last_rank_to_leave_removes_it(self, tmp_path: Path) -> None:
        store = HashStore()
        folder = stores._agreed_folder(store, 0)
        assert stores._agreed_folder(store, 1) == folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        meetings = [stores.Meeting(stores._file_store(folder, "a/0/0", 2, SOON), 2, folder) for _ in range(2)]
        meetings[0].close()
        assert folder.is_dir()
        meetings[1].close()
        assert not folder.exists()

    def test_another_path_is_refused(self) -> None:
        store = HashStore()
        store.set("folder", "../home")
        with pytest.raises(RuntimeError, match=r"'\.\./home' as the name"):
            stores._agreed_folder(store, 1)

    def test_a_folder_that_others_may_enter_is_refused(self) -> None:
        store = HashStore()
        folder = stores._agreed_folder(store, 0)
        assert folder.parent == Path(tempfile.gettempdir())
        folder.chmod(0o755)
        try:
            with pytest.raises(RuntimeError, match="not a private folder"):
                stores._agreed_folder(store, 1)
        finally:
            folder.rmdir()
