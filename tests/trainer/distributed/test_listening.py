"""What listens beyond this machine is seen, by address and process; nothing is connected to."""

import os
import socket
import subprocess
import sys
from ipaddress import ip_address

import pytest

from trainer.distributed.listening import listeners, open_agent


@pytest.mark.parametrize(
    ("family", "address", "local"),
    [
        (socket.AF_INET, "127.0.0.1", True),
        (socket.AF_INET, "127.8.9.10", True),
        (socket.AF_INET, "0.0.0.0", False),  # noqa: S104 - nothing is sent there
        (socket.AF_INET6, "::1", True),
        (socket.AF_INET6, "::ffff:127.0.0.1", True),
        (socket.AF_INET6, "::", False),
    ],
)
def test_a_listening_socket_is_seen_until_it_is_closed(family: socket.AddressFamily, address: str, local: bool) -> None:
    with socket.socket(family) as opened:
        try:
            opened.bind((address, 0))
        except OSError as error:
            pytest.skip(f"{address} is not to be had here: {error}")
        port = opened.getsockname()[1]
        assert port not in {each.port for each in listeners([os.getpid()])}  # bound, and does not listen yet
        opened.listen()
        (found,) = (each for each in listeners([os.getpid()]) if each.port == port)
        assert (found.pid, found.address, found.is_local) == (os.getpid(), ip_address(address), local)
    assert port not in {each.port for each in listeners([os.getpid()])}


def test_the_sockets_of_another_process_are_its_own() -> None:
    listen = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{listen}; sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        assert [(each.pid, each.port) for each in listeners([other.pid])] == [(other.pid, port)]
        assert port not in {each.port for each in listeners([os.getpid()])}
        assert open_agent(other.pid) is None  # on loopback alone: nothing is to be said


def test_a_process_that_is_gone_has_no_sockets() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert listeners([done.pid]) == []


def test_an_open_agent_is_named_with_its_port_and_the_remedy() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6) as opened:
        line = open_agent(os.getpid())
        assert line is not None
        assert f"[::]:{opened.getsockname()[1]}" in line
        assert "`python -m search work`" in line
        assert "\n" not in line
