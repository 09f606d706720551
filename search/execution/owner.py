"""The name of this worker: it survives a restart of the ranks by the same torchrun, and nothing else."""

import os
import socket
from pathlib import Path

from search.storage.statements import Owner


def this_owner(group: int) -> Owner:
    """The owner name of one group of ranks.

    Under torchrun the parent process is the agent, which outlives its ranks: host boot id, pid namespace, its pid and
    its start time, and the group. Elsewhere it is this process itself.
    """
    pid = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else os.getpid()
    return owner_of(pid, group)


def owner_of(pid: int, group: int) -> Owner:
    """The owner name of a group that belongs to a living process of this host and this pid namespace."""
    host = socket.gethostname()
    return Owner(f"{_boot_id(host)}:{_namespace()}:{pid}:{_start_time(pid)}:{group}", host[:100])


def _boot_id(host: str) -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else host


def _namespace() -> int:
    """The pid namespace of this process: containers of one host begin theirs with the same pids, maybe at once."""
    path = Path("/proc/self/ns/pid")
    return path.stat().st_ino if path.exists() else 0


def _start_time(pid: int) -> str:
    """Clock ticks after boot at which a process began: tells a process from a later one with its number."""
    path = Path(f"/proc/{pid}/stat")
    if not path.is_file():
        return "0"
    # The name in parentheses may hold spaces; the start time is field 22, the 20th after it.
    return path.read_text().rpartition(")")[2].split()[19]
