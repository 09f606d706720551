"""The dashboard's application, made anew whenever a study was deleted: SQLite gives out ids of deleted studies again.

optuna-dashboard and Optuna keep what they once read by a study's id, in this process; under the same id a new study
would be shown with parameters and importances of the deleted one.
"""

import json
import threading
from collections.abc import Callable, Container, Iterable
from typing import Any

from optuna.storages import BaseStorage
from optuna_dashboard import _importance

from search.storage.database import Database, without_memory
from search.storage.errors import DATABASE
from search.storage.ownership import Incarnations, incarnations

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def by_age(answer: bytes) -> bytes:
    """The answer with all studies, in an order which the page turns round: the newest search first, and of each search
    the main study before its arms and confirmations. Names of those go on from the search's, behind a dot.
    """
    document = json.loads(answer)
    ids = {study["study_name"]: study["study_id"] for study in document["study_summaries"]}
    document["study_summaries"].sort(key=lambda s: (ids[_search_of(s["study_name"], ids)], -s["study_id"]))
    return json.dumps(document).encode()


def _search_of(name: str, known: Container[str]) -> str:
    """The shortest known name that this one is or goes on from."""
    steps = name.split(".")
    return next(begin for i in range(len(steps)) if (begin := ".".join(steps[: i + 1])) in known)


class _Begun:
    """Keeps the status and headers of an answer that may not be given."""

    def __init__(self) -> None:
        self.given: tuple[Any, ...] = ()

    def __call__(self, *given: Any) -> None:
        self.given = given


class Unmixed:
    """A WSGI application over `build(storage)`; every answer is of the studies that were there all the time it took."""

    def __init__(self, opened: Database, build: Callable[[BaseStorage], Application]) -> None:
        self._opened, self._build = opened, build
        self._idle = threading.Condition()
        self._under_way = 0
        self._known: Incarnations = {}
        self._application = build(opened.storage)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", ""))
        if path.startswith("/static/"):
            return self._application(environ, start_response)
        reads = path.startswith("/api/") and environ["REQUEST_METHOD"] == "GET"
        while True:
            application = self._enter()
            begun = _Begun()
            try:
                if not reads:
                    return application(environ, start_response)
                body = list(application(dict(environ), begun))
            finally:
                self._leave()
            if not self._changed(self._read()):
                status, headers, *rest = begun.given
                if path.rstrip("/") == "/api/studies" and status.startswith("200"):
                    body = [by_age(b"".join(body))]
                    headers = [pair for pair in headers if pair[0].lower() != "content-length"]
                    headers.append(("Content-Length", str(len(body[0]))))
                start_response(status, headers, *rest)
                return body

    def _enter(self) -> Application:
        """The application for one more request. It is made anew, once nobody uses the old one, where a study went."""
        present = self._read()
        with self._idle:
            if present is not None and self._changed(present):
                self._idle.wait_for(lambda: self._under_way == 0)
                with _importance.param_importance_cache_lock:
                    _importance.param_importance_cache.clear()
                self._application = self._build(without_memory(self._opened))
            self._known = self._known if present is None else present
            self._under_way += 1
            return self._application

    def _leave(self) -> None:
        with self._idle:
            self._under_way -= 1
            self._idle.notify_all()

    def _read(self) -> Incarnations | None:
        """None while the database does not answer: the application itself says that."""
        try:
            return incarnations(self._opened.engine)
        except DATABASE:
            return None

    def _changed(self, present: Incarnations | None) -> bool:
        """Whether a study that was there is gone, or another one has its id."""
        if present is None:
            return False
        return any(
            study_id not in present or before.ended_by(present[study_id]) for study_id, before in self._known.items()
        )
