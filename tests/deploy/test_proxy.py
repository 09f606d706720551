"""The real proxy in front of the real dashboard: who gets in, what leaves, and that hostile text stays text."""

import base64
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna_dashboard import save_note
from sqlalchemy import make_url

from search.storage.database import open_storage

ROOT = Path(__file__).resolve().parents[2]
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")

PASSWORDS = {"operator": "open: sesame", "viewer": "just looking"}


@dataclass(frozen=True)
class Served:
    """A dashboard behind the proxy; ports on loopback."""

    proxy: int
    dashboard: int
    marker: int
    asked: list[str]
    """Paths that pages have asked of the marker server: what hostile text would ask if it ran."""
    study_id: int
    picture: str
    page: str


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def until_it_listens(port: int, process: "subprocess.Popen[bytes]") -> None:
    limit = time.monotonic() + 60
    while True:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < limit, f"{process.args} does not listen"
        time.sleep(0.05)


@contextmanager
def running(words: list[str], port: int, **environment: str) -> Iterator[None]:
    process = subprocess.Popen(words, cwd=ROOT, env=os.environ | environment)
    try:
        until_it_listens(port, process)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def marker() -> Iterator[tuple[int, list[str]]]:
    """A server that writes down what it is asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, asked
    server.shutdown()
    thread.join()
    server.server_close()


def hostile(marker_port: int, where: str) -> str:
    """Markup that would tell the marker server if a browser ran it."""
    call = f"new Image().src='http://127.0.0.1:{marker_port}/{where}';document.title='taken'"
    return f'<img src=x onerror="{call}"><script>{call}</script><svg onload="{call}">'


def hostile_study(url: str, folder: Path, marker_port: int) -> tuple[int, str, str]:
    """A study whose name, choice and notes are hostile, with a picture and a hostile page as artifacts."""
    opened = open_storage(url)
    study = optuna.create_study(storage=opened.storage, study_name=f"evil {hostile(marker_port, 'name')}")
    save_note(study, f"**bold words** {hostile(marker_port, 'note')} [link](javascript:document.title='taken')")
    store = FileSystemArtifactStore(str(folder))
    for value in (0.25, 0.5):
        trial = study.ask()
        trial.suggest_categorical("choice", [hostile(marker_port, "choice"), "tame"])
        trial.set_user_attr("remark", hostile(marker_port, "attribute"))
        save_note(trial, hostile(marker_port, "trial-note"))
        artifacts = []
        for name, content in {"a.png": "a picture", "b.html": hostile(marker_port, "artifact")}.items():
            file = folder / name
            file.write_text(content)
            artifacts.append(upload_artifact(artifact_store=store, file_path=str(file), study_or_trial=trial))
        study.tell(trial, value)
    opened.engine.dispose()
    base = f"/artifacts/{study._study_id}/{trial._trial_id}"
    return study._study_id, f"{base}/{artifacts[0]}", f"{base}/{artifacts[1]}"


def replaced(text: str, changes: dict[str, str]) -> str:
    """The configuration with its places changed; each must be there exactly once."""
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def proxy_configuration(folder: Path, dashboard: int, proxy: int) -> Path:
    """deploy/nginx for this machine: only ports and places differ."""
    site = folder / "site" / "dashboard.conf"
    site.parent.mkdir()
    places = {
        "dashboard:8080": f"127.0.0.1:{dashboard}",
        "listen 8080;": f"listen 127.0.0.1:{proxy};",
        "/run/secrets/htpasswd": str(folder / "htpasswd"),
    }
    site.write_text(replaced((ROOT / "deploy/nginx/dashboard.conf").read_text(), places))
    temporary = (ROOT / "deploy/nginx/nginx.conf").read_text().replace(" /tmp/", f" {folder}/")
    text = replaced(
        temporary,
        {
            "listen 127.0.0.1:8081;": f"listen 127.0.0.1:{free_port()};",
            "include /etc/nginx/conf.d/*.conf;": f"include {site};",
            "access_log /dev/stdout plain;": f"access_log {folder}/access.log plain;",
            "error_log stderr warn;": f"error_log {folder}/error.log warn;",
        },
    )
    whole = folder / "nginx.conf"
    whole.write_text(text)
    return whole


def password_file(folder: Path) -> None:
    """Written by the script that operators use."""
    home = folder / "home"
    home.mkdir()
    for name, password in PASSWORDS.items():
        subprocess.run(
            [str(ROOT / "deploy/secrets.sh"), "user", name],
            env=os.environ | {"KD_HOME": str(home)},
            input=password,
            text=True,
            check=True,
        )
    shutil.copy(home / "secrets" / "htpasswd", folder / "htpasswd")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, marker: tuple[int, list[str]]) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("proxy")
    password_file(folder)
    artifacts = folder / "artifacts"
    artifacts.mkdir()
    url = f"sqlite:///{folder}/study.db"
    study_id, picture, page = hostile_study(url, artifacts, marker[0])
    dashboard, proxy = free_port(), free_port()
    secret = folder / "storage_url"
    secret.write_text(f"{url}\n")
    words = [sys.executable, "-m", "search", "dashboard", "--port", str(dashboard), "--artifacts", str(artifacts)]
    # As root nginx would hand over to a user who cannot read the folders of tests.
    directives = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    nginx = [str(NGINX), "-c", str(proxy_configuration(folder, dashboard, proxy)), "-g", directives]
    nginx += ["-e", str(folder / "error.log")]
    with running(words, dashboard, OPTUNA_STORAGE_FILE=str(secret)), running(nginx, proxy):
        yield Served(proxy, dashboard, *marker, study_id, picture, page)
    text = (folder / "access.log").read_text()
    assert "operator" in text
    assert not any(password in text or basic(password) in text for password in PASSWORDS.values())


def basic(user: str, password: str | None = None) -> str:
    pair = f"{user}:{PASSWORDS.get(user, '') if password is None else password}"
    return base64.b64encode(pair.encode()).decode()


def ask(
    port: int, path: str, method: str = "GET", user: str | None = None, password: str | None = None, **more: str
) -> http.client.HTTPResponse:
    """One request; the response's body is in `content`."""
    headers = {name.replace("_", "-"): value for name, value in more.items() if name != "body"}
    if user is not None:
        headers["Authorization"] = f"Basic {basic(user, password)}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body=more.get("body"), headers=headers)
    response = connection.getresponse()
    response.content = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def paths(served: Served) -> list[str]:
    return [
        "/",
        "/dashboard",
        "/static/bundle.js",
        "/api/studies",
        f"/api/studies/{served.study_id}",
        served.picture,
        served.page,
        "/nowhere",
        "//api/studies",
        "/%61pi/studies",
    ]


@needs_nginx
@pytest.mark.parametrize("host", ["kd.example", "127.0.0.1:8080", "localhost"])
def test_who_has_the_password_may_ask_under_any_name_and_stays_there(served: Served, host: str) -> None:
    """The dashboard itself answers to names of this machine alone, and sends the first page's visitors on."""
    answer = ask(served.proxy, "/", user="operator", Host=host)
    assert (answer.status, answer.getheader("Location")) == (302, "/dashboard")
    assert ask(served.proxy, "/api/studies", user="operator", Host=host).status == 200
    assert ask(served.dashboard, "/api/studies", Host="kd.example").status == 403


@needs_nginx
@pytest.mark.parametrize(
    ("user", "password"),
    [(None, None), ("operator", "wrong"), ("operator", ""), ("stranger", "open: sesame"), ("viewer", "open: sesame")],
)
def test_nobody_gets_in_without_the_password(served: Served, user: str | None, password: str | None) -> None:
    found = {
        (method, path): ask(served.proxy, path, method, user, password).status
        for path in paths(served)
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
    }
    assert set(found.values()) == {401}, {k: v for k, v in found.items() if v != 401}
    # What no location serves, whoever asks.
    assert {ask(served.proxy, p, "GET", user, password).status for p in ("/.permitted", "/../api/studies")} == {
        400,
        404,
    }
    told = ask(served.proxy, served.picture, user=user, password=password)
    assert told.getheader("WWW-Authenticate") == 'Basic realm="kd-search"'
    assert b"a picture" not in told.content  # type: ignore[attr-defined]


@needs_nginx
def test_with_the_password_pages_and_files_come_with_their_guards(served: Served) -> None:
    for path, expected in {
        "/dashboard": b"Optuna Dashboard",
        "/api/studies": b"evil",
        served.picture: b"a picture",
        "/static/bundle.js": b"function",
    }.items():
        answer = ask(served.proxy, path, user="operator", Origin="http://elsewhere.example")
        assert answer.status == 200, path
        assert expected in answer.content, path  # type: ignore[attr-defined]
        assert answer.getheader("Access-Control-Allow-Origin") is None, path
        assert answer.headers.get_all("X-Content-Type-Options") == ["nosniff"]
        assert answer.headers.get_all("X-Frame-Options") == ["DENY"]
        assert answer.headers.get_all("Referrer-Policy") == ["no-referrer"]
        assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
        assert answer.getheader("Server") == "nginx"
        assert answer.getheader("Cache-Control") == (None if path.startswith("/static/") else "private, no-store")
    policies = ask(served.proxy, served.page, user="operator").headers.get_all("Content-Security-Policy") or []
    assert all("sandbox" in policy for policy in policies)
    assert policies


@needs_nginx
def test_the_dashboard_alone_opens_no_file_to_other_pages(served: Served) -> None:
    """Without a proxy it listens on loopback, where any web page that its user visits could ask for files."""
    answer = ask(served.dashboard, served.picture, Origin="http://elsewhere.example")
    assert answer.status == 200
    assert answer.getheader("Access-Control-Allow-Origin") is None
    assert "sandbox" in str(answer.getheader("Content-Security-Policy"))


@needs_nginx
def test_notes_may_be_written_and_trials_not_be_taken(served: Served) -> None:
    json = {"Content_Type": "application/json"}
    note = f"/api/studies/{served.study_id}/1/note"
    body = '{"body": "seen", "version": 2}'
    assert ask(served.proxy, note, "PUT", "operator", body=body, **json).status == 204
    assert ask(served.proxy, note, "PUT", "viewer", body=body, **json).status == 403
    assert ask(served.proxy, note, "PUT", "operator", body=body, Sec_Fetch_Site="cross-site", **json).status == 403
    assert ask(served.proxy, "/api/studies", user="viewer").status == 200
    for method, path, text in (
        ("DELETE", f"/api/studies/{served.study_id}", "{}"),
        ("POST", f"/api/studies/{served.study_id}/rename", '{"study_name": "mine"}'),
        ("POST", "/api/trials/1/tell", '{"state": "fail"}'),
        ("POST", "/api/studies", '{"study_name": "new", "directions": ["minimize"]}'),
    ):
        assert ask(served.proxy, path, method, "operator", body=text, **json).status == 403, path
    assert b"evil" in ask(served.proxy, "/api/studies", user="operator").content  # type: ignore[attr-defined]


@needs_nginx
def test_a_body_that_no_note_needs_is_refused(served: Served) -> None:
    path = f"/api/studies/{served.study_id}/1/note"
    assert ask(served.proxy, path, "PUT", "operator", body="x" * 1_200_000).status == 413


@pytest.fixture
def logged_in(served: Served) -> Iterator[int]:
    """A port that passes requests on to the proxy with the password, as a browser does once it was typed in.

    A password in the address would not do: browsers refuse what a page of such an address fetches.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection = http.client.HTTPConnection("127.0.0.1", served.proxy, timeout=30)
            connection.request("GET", self.path, headers=sent | {"Authorization": f"Basic {basic('operator')}"})
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def look(address: str, profile: Path, seconds: int) -> str:
    """The page as headless Chromium has it in the end, with what its scripts made."""
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    words += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    words += ["--disable-dev-shm-usage", f"--user-data-dir={profile}", "--dump-dom"]
    words += [f"--virtual-time-budget={seconds * 1000}", address]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
@needs_nginx
@needs_chromium
def test_hostile_names_choices_notes_and_files_stay_inert_in_a_browser(
    served: Served, logged_in: int, tmp_path: Path
) -> None:
    study = f"/dashboard/studies/{served.study_id}"
    shown = {
        "/dashboard": "evil &lt;img",
        f"{study}/trials?numbers=1": "&lt;img",
        f"{study}/note": "bold words",
        served.page: "",
    }
    with ThreadPoolExecutor(2) as browsers:
        looked = [
            browsers.submit(look, f"http://127.0.0.1:{logged_in}{path}", tmp_path / str(number), seconds=20)
            for number, path in enumerate(shown)
        ]
    for (path, text), browser in zip(shown.items(), looked, strict=True):
        page = browser.result()
        assert text in page, f"{path} did not show: {page[-2000:]}"
        assert "<title>taken</title>" not in page, path
        assert 'href="javascript:' not in page, path
        if path != served.page:  # a file is shown as its author wrote it; it may not run
            assert not re.search(r"<(img|svg)[^>]*\son(error|load)=", page), path
    assert served.asked == []


@pytest.mark.slow
@needs_chromium
def test_the_browser_would_have_told(marker: tuple[int, list[str]], tmp_path: Path) -> None:
    """The check above can fail: the same text in a page of its own does run."""
    port, asked = marker
    page = tmp_path / "page.html"
    page.write_text(hostile(port, "control"))
    assert "<title>taken</title>" in look(page.as_uri(), tmp_path / "profile", seconds=2)
    assert "/control" in asked
    asked.clear()


def test_the_database_s_password_is_in_no_argument_log_or_answer(postgres_url: str, tmp_path: Path) -> None:
    hidden = "geheim-and-long"
    url = make_url(postgres_url).set(password=hidden).render_as_string(hide_password=False)
    open_storage(url).engine.dispose()
    file, log = tmp_path / "storage_url", tmp_path / "log"
    file.write_text(url)
    port = free_port()
    words = [sys.executable, "-m", "search", "dashboard", "--port", str(port)]
    with log.open("w") as written:
        process = subprocess.Popen(
            words, cwd=ROOT, env=os.environ | {"OPTUNA_STORAGE_FILE": str(file)}, stdout=written, stderr=written
        )
    try:
        until_it_listens(port, process)
        seen = Path(f"/proc/{process.pid}/cmdline").read_text()
        for path in ("/dashboard", "/api/meta", "/api/studies", "/api/studies/7", "/nowhere"):
            answer = ask(port, path)
            seen += str(answer.headers) + answer.content.decode()  # type: ignore[attr-defined]
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        listening = [
            local for _, local, _, state, *_ in sockets[1:] if state == "0A" and local.endswith(f":{port:04X}")
        ]
        assert listening == [f"0100007F:{port:04X}"]  # 127.0.0.1, and no other address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    assert process.returncode == 0
    assert ":***@" in log.read_text()
    assert hidden not in seen + log.read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--port", "70000"], "--port: '70000': expected a whole number from 0 to 65535"),
        (["--artifacts", "nowhere"], "--artifacts nowhere: no such folder"),
        (["--storage", "sqlite:///nowhere.db"], "nowhere.db"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], expected: str, module: Callable[..., Any]) -> None:
    done = module("search", "dashboard", *words, code=2)
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_one_line(
    sqlite_url: str, marker: tuple[int, list[str]], module: Callable[..., Any]
) -> None:
    open_storage(sqlite_url).engine.dispose()
    done = module("search", "dashboard", "--storage", sqlite_url, "--port", marker[0], code=2)
    assert "cannot listen: Address already in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1
