"""`python -m search dashboard`: optuna-dashboard on the search's database, for people who look.

The address of the database comes from the environment or a file, so that no password shows in the process list.
Trials belong to workers: what would change one behind a worker's back (tell, delete, rename) is refused by default.
"""

import argparse
import json
import logging
import re
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import waitress
from loguru import logger
from optuna.artifacts import FileSystemArtifactStore
from optuna_dashboard import wsgi

from search.dashboard.unmixed import Application, Unmixed
from search.storage.database import open_storage
from search.storage.errors import UNAVAILABLE, patient
from search.storage.url import add_storage, storage_url
from trainer.cli.numbers import whole
from trainer.errors import UserError, one_line

Headers = list[tuple[str, str]]
NOTE = re.compile(r"/api/studies/\d+(/\d+)?/note")
"""Where the dashboard stores what people write about a study or a trial."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HOST = re.compile(r"(?:\[(?P<address>[0-9a-f:.%]+)\]|(?P<name>[^\[\]:/@\s]+))(?::[0-9]*)?")
"""A Host header in lower case: a name or an address, and perhaps a port."""
THREADS = 8
"""Requests answered at the same time."""
ARTIFACT_POLICY = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; sandbox"
"""Content-Security-Policy of a file that somebody uploaded: it is shown, and never runs as a page of the dashboard."""


class OutageLog(logging.Handler):
    """Logs once that the database is unavailable and once that it is back; other errors are logged as they are."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._unavailable = False

    def emit(self, record: logging.LogRecord) -> None:
        """Runs while the logged error is still being handled."""
        error = sys.exc_info()[1]
        if not isinstance(error, UNAVAILABLE):
            logger.log(record.levelname, "{}", record.getMessage())
        elif not self._unavailable:
            self._unavailable = True
            logger.warning("the database does not answer: {}", one_line(str(error.__cause__ or error))[:160])

    def back(self) -> None:
        """An answer came from the database."""
        if self._unavailable:
            self._unavailable = False
            logger.info("the database is back")


class Guarded:
    """The dashboard's WSGI application behind what it lacks by itself.

    edits: "none", "notes" (people write about trials and studies) or "all" (create, rename, tell, delete, upload).
    hosts: the names under which it may be asked; a page of another site whose name leads here (DNS rebinding) has
    another one, and would read and write as if it were the dashboard's own.
    Files of trials lose the header that lets any web page read them, and do not run as pages of the dashboard.
    """

    def __init__(self, application: Application, edits: str, hosts: Collection[str] = LOOPBACK) -> None:
        self._application, self._edits = application, edits
        self._hosts = {name.lower() for name in hosts}
        self._outages = OutageLog()
        # optuna-dashboard logs the traceback of a bug, and also that of an unavailable database.
        dashboard_log = logging.getLogger("optuna_dashboard")
        dashboard_log.handlers, dashboard_log.propagate = [self._outages], False

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", ""))
        host = str(environ.get("HTTP_HOST", ""))
        if host_name(host) not in self._hosts:
            return _forbidden(start_response, f"host {host[:100]!r}: not served; start the dashboard with --allow-host")
        if not self._permitted(str(environ["REQUEST_METHOD"]), path):
            return _forbidden(start_response, "read only here: use python -m search enqueue, stop or close")

        def begin(status: str, headers: Headers, *rest: object) -> object:
            if path.startswith("/api/") and status.startswith("2"):
                self._outages.back()
            return start_response(status, guarded_headers(path, headers), *rest)

        return self._application(environ, begin)

    def _permitted(self, method: str, path: str) -> bool:
        if method in ("GET", "HEAD") or self._edits == "all":
            return True
        return self._edits == "notes" and method == "PUT" and NOTE.fullmatch(path.rstrip("/")) is not None


def host_name(host: str) -> str:
    """The name in a Host header, without its port or an IPv6 address's brackets; empty where it is none."""
    match = HOST.fullmatch(host.lower())
    return "" if match is None else match["name"] or match["address"]


def _forbidden(start_response: Callable[..., Any], reason: str) -> list[bytes]:
    text = json.dumps({"reason": reason}).encode()
    start_response("403 Forbidden", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]


def guarded_headers(path: str, headers: Headers) -> Headers:
    """The headers of an answer without open CORS, and with what keeps a browser from guessing or framing."""
    kept = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
    kept += [("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer")]
    return [*kept, ("Content-Security-Policy", ARTIFACT_POLICY)] if path.startswith("/artifacts/") else kept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    add_storage(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    parser.add_argument(
        "--port", type=whole(0, 65535), default=8080, help="port to listen on (default 8080; 0: any free one)"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which visitors may ask for it, such as that of the machine; may be repeated (default: "
        "localhost, 127.0.0.1, ::1, and what --host names)",
    )
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="folder of the trials' pictures and files")
    parser.add_argument(
        "--edits",
        choices=("none", "notes", "all"),
        default="notes",
        help="what visitors may change: nothing, notes (default), or all that optuna-dashboard can, which may take "
        "trials from running workers",
    )


def main(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    hosts = _hosts(args.host, args.allow_host)
    files = None
    if args.artifacts is not None:
        if not args.artifacts.is_dir():
            raise UserError(f"--artifacts {args.artifacts}: no such folder; create it, or give that of the workers")
        files = FileSystemArtifactStore(str(args.artifacts))
    with patient("dashboard"):
        opened = open_storage(storage_url(args.storage), create=False)
    application = Guarded(Unmixed(opened, lambda storage: wsgi(storage, artifact_store=files)), args.edits, hosts)
    server = listening(application, args, THREADS)
    if args.host not in LOOPBACK:
        logger.warning("no password is asked for on {}: put deploy/nginx in front", args.host)
        logger.info("answers to the names {}; --allow-host adds one", ", ".join(sorted(hosts)))
    logger.info("http://{}:{}/  {}", args.host, port_of(server), opened.label)
    server.run()
    return 0


def listening(application: Application, args: argparse.Namespace, threads: int) -> Any:
    """A server on --host and --port, which TERM ends with exit code 0. Raises UserError where it cannot listen."""
    try:
        server = waitress.create_server(application, host=args.host, port=args.port, threads=threads, ident=None)
    except OSError as error:
        raise UserError(
            f"--host {args.host} --port {args.port}: cannot listen: {error.strerror}; --port 0 takes any free port"
        ) from None
    signal.signal(signal.SIGTERM, _leave)
    return server


def port_of(server: Any) -> int:
    """The port that a server listens on. A name such as localhost may stand for two sockets, which it then lists."""
    sockets = getattr(server, "effective_listen", None) or [(server.effective_host, server.effective_port)]
    return int(sockets[0][1])


def _hosts(host: str, more: Sequence[str]) -> set[str]:
    """The names under which the dashboard may be asked. Raises UserError."""
    for given in more:
        if not given or host_name(f"[{given}]" if ":" in given else given) != given.lower():
            raise UserError(f"--allow-host {given!r}: give a name or an address alone, without port, path or http://")
    return {*LOOPBACK, host, *more} - {"0.0.0.0", "::", ""}  # noqa: S104 - where it listens, and no name of a visitor's


def _leave(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)
