"""Where a server of one's own listens, and which hosts and ports of this machine it may have."""

import ipaddress
import random
import socket
from dataclasses import dataclass

from trainer.errors import UserError

NAME = "kd"
"""The one database, and the one role that may log in to it. It is no superuser: nobody can be one from outside."""
LOOPBACK = "127.0.0.1"
PORTS = range(20000, 32768)
"""Where a free port is looked for: below those that systems give to outgoing connections."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host == "localhost" or _is(self.host, "is_loopback")

    @property
    def reached_as(self) -> str:
        """The host that a URL names."""
        return socket.gethostname() if _is(self.host, "is_unspecified") else self.host

    def url(self, password: str) -> str:
        """The URL for `OPTUNA_STORAGE`; with the driver, since what is meant without it depends on versions."""
        host = f"[{self.reached_as}]" if ":" in self.reached_as else self.reached_as
        return f"postgresql+psycopg2://{NAME}:{password}@{host}:{self.port}/{NAME}"


def _is(host: str, what: str) -> bool:
    try:
        return bool(getattr(ipaddress.ip_address(host), what))
    except ValueError:
        return False


def check_host(host: str) -> None:
    """Raises UserError for what this machine cannot listen at."""
    try:
        _bound(host, 0).close()
    except (OSError, UnicodeError):
        raise UserError(
            f"--host {host}: no address of this machine; known: {LOOPBACK} (this machine alone), "
            f"0.0.0.0 (all its addresses), {socket.gethostname()}"
        ) from None


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return bound


def is_free(host: str, port: int) -> bool:
    """Whether nobody listens there."""
    try:
        _bound(host, port).close()
    except OSError:
        return False
    return True


def free_port(host: str) -> int:
    """A port that nobody listens at, drawn at random."""
    ports = random.SystemRandom().sample(PORTS, 100)
    free = next((port for port in ports if is_free(host, port)), None)
    if free is None:
        raise UserError(f"no free port found on {host}; choose one with --port")
    return free
