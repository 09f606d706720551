"""Where the ranks of one torchrun meet: a store of torch.distributed that other machines cannot reach."""

import os
import re
import secrets
import shutil
import socket
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore

from trainer.distributed.temporary import MEETING_FOLDER

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables by which gloo and NCCL choose the network interface that their own sockets listen on."""
_NONCE = re.compile(r"[0-9a-f]{32}")


def on_one_host(world: int) -> bool:
    """Whether all ranks of the launcher are on this machine, by the variables that launchers set.

    Without LOCAL_WORLD_SIZE they are where the address at which they meet is this machine's loopback.
    """
    local = os.environ.get("LOCAL_WORLD_SIZE")
    if local is not None:
        return int(local) == world
    return _is_loopback(os.environ.get("MASTER_ADDR", ""))


def stay_on_loopback() -> None:
    """Make gloo and NCCL listen on the loopback interface alone, whatever a cluster's profile says for other programs.

    Read by them when a process group is made. NCCL moves data between the GPUs of one machine through memory; its
    sockets are for the start.
    """
    for name in INTERFACES:
        os.environ[name] = _loopback_interface()


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of one start of a torchrun find each other."""

    store: Store
    world: int
    folder: Path | None = None
    """The folder that was made for this meeting alone."""

    def close(self) -> None:
        """Part from it; the last rank that does removes the folder."""
        if self.folder is not None and self.store.add("left", 1) == self.world:
            shutil.rmtree(self.folder, ignore_errors=True)


def meet(tag: str, index: int, world: int, timeout: timedelta) -> Meeting:
    """The meeting of all ranks of the launcher; every rank calls this.

    tag: a name of its own for each meeting, of letters, digits, `-` and `/`, so that nothing of an earlier one, or of
    ranks before a restart, is found. index, world: this rank's place among all ranks of the launcher.

    Ranks of one machine meet in a file of a private folder: that of an agent of ours, else one that rank 0 makes and
    names to its siblings through the store that torchrun's agent has opened. Without an agent they meet in a TCP store
    of rank 0 on 127.0.0.1. Ranks of several machines meet in a TCP store on every address, as torchrun has them do.
    Raises ValueError where MASTER_ADDR or MASTER_PORT is missing, RuntimeError (DistStoreError included) where the
    siblings do not come within `timeout`, and OSError where a folder or port cannot be had.

    Process groups of ranks of one machine that are made afterwards listen on its loopback interface.
    """
    folder = os.environ.get(MEETING_FOLDER)
    one_host = on_one_host(world)
    if one_host:
        stay_on_loopback()
    if folder is not None and one_host:
        return Meeting(_file_store(Path(folder), tag, world, timeout), world)
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "False") == "True"
    host, port = _address()
    if hosted or not one_host:
        store = PrefixStore(tag, TCPStore(host, port, is_master=index == 0 and not hosted, timeout=timeout))
    else:
        store = PrefixStore(tag, _loopback_store(port, serves=index == 0, timeout=timeout))
    if not (hosted and one_host):
        return Meeting(store, world)
    made = _agreed_folder(store, index)
    return Meeting(_file_store(made, tag, world, timeout), world, made)


def _file_store(folder: Path, tag: str, world: int, timeout: timedelta) -> Store:
    store = FileStore(str(folder / tag.replace("/", "-")), world)
    store.set_timeout(timeout)
    return store


def _agreed_folder(store: Store, index: int) -> Path:
    """A new private folder of rank 0, named by a number that the siblings read from the agent's store.

    That store is open to the network, so nothing but a well-formed number is taken from it, and a folder that is not
    this user's alone is refused.
    """
    place = Path(tempfile.gettempdir())
    if index == 0:
        nonce = secrets.token_hex(16)
        (place / f"kd-ranks-{nonce}").mkdir(mode=0o700)
        store.set("folder", nonce)
    nonce = store.get("folder").decode(errors="replace")
    folder = place / f"kd-ranks-{nonce}"
    if not _NONCE.fullmatch(nonce):
        raise RuntimeError(f"torchrun's store holds {nonce[:40]!r} as the name of the ranks' folder; end this torchrun")
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise RuntimeError(f"{folder}: not a private folder of this user; end this torchrun")
    return folder


def _address() -> tuple[str, int]:
    """Where torchrun, or whatever started the ranks, says that they meet."""
    known = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    host, port = known["MASTER_ADDR"], known["MASTER_PORT"]
    if not host or port is None or not port.isdecimal():
        shown = ", ".join(f"{name} {'is not set' if value is None else f'= {value}'}" for name, value in known.items())
        raise ValueError(f"{shown}: ranks meet at MASTER_ADDR and MASTER_PORT; start them with torchrun, or unset RANK")
    return host, int(port)


def _loopback_store(port: int, *, serves: bool, timeout: timedelta) -> TCPStore:
    """The store of ranks of one machine that no agent watches: rank 0 serves it, on 127.0.0.1 alone."""
    if not serves:
        return TCPStore("127.0.0.1", port, is_master=False, timeout=timeout)
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", port))
        # The store owns the descriptor from here on, and begins to listen itself.
        return TCPStore("127.0.0.1", port, is_master=True, timeout=timeout, master_listen_fd=bound.detach())


def _loopback_interface() -> str:
    """`lo` on Linux, `lo0` on a Mac."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), "lo")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
