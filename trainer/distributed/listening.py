"""Which TCP addresses processes of this machine listen on, read from /proc without connecting to anything."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

_LISTEN = "0A"
"""TCP_LISTEN of Linux's `include/net/tcp_states.h`, as /proc/net/tcp writes it."""
_SOCKET = re.compile(r"socket:\[(\d+)\]")


class Listener(NamedTuple):
    """A TCP socket that waits for connections."""

    pid: int
    address: IPv4Address | IPv6Address
    """The unspecified address (0.0.0.0 or ::) stands for all addresses of the machine."""
    port: int

    @property
    def is_local(self) -> bool:
        """Whether other machines cannot reach it."""
        mapped = self.address.ipv4_mapped if isinstance(self.address, IPv6Address) else None
        return (mapped or self.address).is_loopback

    def __str__(self) -> str:
        address = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{address}:{self.port}"


def listeners(pids: Iterable[int]) -> list[Listener]:
    """The listening TCP sockets that the processes hold open, IPv4 and IPv6.

    A process that has ended, or belongs to another user, has none that can be seen; where there is no /proc (other
    systems than Linux) the list is empty.
    """
    sockets = []
    for pid in pids:
        held = _sockets(pid)
        for family in ("tcp", "tcp6") if held else ():
            with suppress(OSError):  # it has just ended
                table = Path(f"/proc/{pid}/net/{family}").read_text()
                sockets += [Listener(pid, *place) for place, inode in _listening(table) if inode in held]
    return sorted(sockets, key=lambda each: (each.pid, each.port, str(each.address)))


def open_agent(agent: int) -> str | None:
    """A warning about torchrun's agent where it listens beyond this machine; None where it does not.

    agent: the process id of the parent of a rank that torchrun started. The sockets are the agent's own, opened before
    any of our code runs, so the ranks can but name them.
    """
    reached = ", ".join(str(each) for each in listeners([agent]) if not each.is_local)
    if not reached:
        return None
    return (
        f"torchrun itself listens on {reached}, without a password, where other machines can reach it; "
        "`python -m search work` and `torchrun --rdzv-backend=kd-local` (in place of --standalone) open nothing"
    )


def _sockets(pid: int) -> set[str]:
    """The inodes of a process's open sockets."""
    inodes = set()
    with suppress(OSError), os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with suppress(OSError):  # closed since the folder was read
                if match := _SOCKET.fullmatch(os.readlink(entry.path)):
                    inodes.add(match[1])
    return inodes


def _listening(table: str) -> Iterable[tuple[tuple[IPv4Address | IPv6Address, int], str]]:
    """Address, port and inode of the listening sockets of a /proc/net/tcp or tcp6 table."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN:
            address, port = fields[1].split(":")
            # The kernel prints the address as 32-bit words in the machine's byte order.
            parts = [int(address[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(address), 8)]
            yield (ip_address(b"".join(parts)), int(port, 16)), fields[9]
