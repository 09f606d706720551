"""A real Prometheus watches a search that runs: it answers every panel, and each alert fires for what it is for."""

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainer.loggers import Loggers, prometheus
from trainer.reports import EpochReport

DEPLOYED = Path(__file__).resolve().parents[3] / "deploy" / "metrics"
PROMETHEUS = shutil.which("prometheus")
TTL = 2.0
SOONER = {
    "kd_heartbeat_age_seconds > 180": f"kd_heartbeat_age_seconds > {TTL:g}",
    "kd_finished_age_seconds > 3600": "kd_finished_age_seconds > 3",
}
"""Waits of the rules that a test cannot afford; the rest of each expression is as deployed."""
pytestmark = [
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed: apt-get install prometheus"),
    pytest.mark.slow,
]


class Watch:
    """A Prometheus over one `search metrics`, and what it says."""

    def __init__(self, folder: Path, target: str, port: int) -> None:
        rules = (DEPLOYED / "alerts.yml").read_text()
        for deployed, sooner in SOONER.items():
            assert rules.count(deployed) == 1, deployed
            rules = rules.replace(deployed, sooner)
        (folder / "alerts.yml").write_text(re.sub(r"for: \d+m", "for: 1s", rules))
        scraped = {"job_name": "kd", "static_configs": [{"targets": [target]}]}
        settings = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [scraped],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        words = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        words.append(f"--web.listen-address=127.0.0.1:{port}")
        self._url = f"http://127.0.0.1:{port}/api/v1"
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([str(PROMETHEUS), *words], stdout=log, stderr=log)

    def ask(self, what: str, **query: str) -> Any:
        """The answer's data; None where it does not answer yet."""
        try:
            with urllib.request.urlopen(f"{self._url}/{what}?{urllib.parse.urlencode(query)}", timeout=20) as answer:  # noqa: S310 - this machine
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it is not ready
                return None
            raise
        except urllib.error.URLError:
            assert self.process.poll() is None, self.log.read_text()
            return None

    def values(self, expression: str) -> list[float]:
        answer = self.ask("query", query=expression)
        return [] if answer is None else [float(each["value"][1]) for each in answer["result"]]

    def firing(self) -> dict[str, str]:
        """Alert that fires -> its summary, as a person gets it."""
        alerts = (self.ask("alerts") or {"alerts": []})["alerts"]
        return {
            each["labels"]["alertname"]: each["annotations"]["summary"] for each in alerts if each["state"] == "firing"
        }


@pytest.fixture
def search(tmp_path: Path, small_study: Callable[..., str], launch: Callable[..., Any]) -> Iterator[Any]:
    """A worker of a search that goes on and on, some of whose trials fail."""
    study = tmp_path / "seen.toml"
    study.write_text(small_study(trials=100_000, epochs=2, more="max_failed = 100000\n"))
    flags = ["--storage", f"sqlite:///{tmp_path / 'study.db'}", "--runs", tmp_path / "runs", "--ttl", TTL]
    words = ["simulate", study, *flags, "--fail-share", "0.4", "--epoch-seconds", "0.4", "--as-worker"]
    worker = launch("search", *words)
    yield worker
    worker.kill()
    worker.wait()


@pytest.fixture
def metrics(search: Any, tmp_path: Path, launch: Callable[..., Any]) -> Iterator[str]:
    """The address of `search metrics` over it."""
    wait(lambda: (tmp_path / "study.db").exists(), lambda: search.log)
    flags = ["--storage", f"sqlite:///{tmp_path / 'study.db'}", "--port", "0", "--workers", tmp_path / "logs"]
    served: Any = None

    def address() -> str:  # the worker may still be making the tables
        nonlocal served
        if served is None or served.poll() is not None:
            served = launch("search", "metrics", *flags)
        match = re.search(r"http://(127\.0\.0\.1:\d+)/metrics", served.log)
        return match[1] if match else ""

    wait(address, lambda: served.log)
    yield address()
    served.send_signal(signal.SIGTERM)
    assert served.wait() == 0


@pytest.fixture
def watch(metrics: str, tmp_path: Path, free_port: int) -> Iterator[Watch]:
    watched = Watch(tmp_path, metrics, free_port)
    yield watched
    watched.process.terminate()
    watched.process.wait(20)


def wait(done: Callable[[], Any], about: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, about()
        time.sleep(0.1)


def test_every_panel_is_answered_and_each_alert_fires(
    search: Any, watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = json.loads((DEPLOYED / "grafana.json").read_text())["panels"]
    asked = [target["expr"].replace("$study", "seen") for panel in panels for target in panel["targets"]]
    # No GPU and no teacher is at hand for the worker's own two families.
    monkeypatch.setattr(prometheus, "_device_bytes", lambda: {"reserved": 2.0**30, "peak": 2.0**29})
    monkeypatch.setattr(prometheus, "WRITE_SECONDS", 0.0)
    teacherless = 'kd_teacher_passes_per_step{study="seen"}'
    with Loggers(["prometheus"], tmp_path / "logs", "seen") as log:
        epoch = 0

        def unanswered() -> list[str]:
            nonlocal epoch
            epoch += 1
            log.tell("kd-0", EpochReport(epoch, epoch, None, {}, {"student": 0.1}, False, passes=0.25))
            return [each for each in asked if each != teacherless and not watch.values(each)]

        wait(lambda: not unanswered(), unanswered)
        assert watch.ask("query", query=teacherless)["result"] == []
    wait(lambda: "KdFailuresRise" in watch.firing(), watch.firing)
    assert set(watch.firing()) == {"KdFailuresRise"}
    search.kill()  # and nobody is there who could adopt its trials
    wait(lambda: {"KdNoHeartbeat", "KdNoTrialFinished"} <= set(watch.firing()), watch.firing)
    assert watch.firing()["KdNoTrialFinished"].startswith("seen: no trial has finished")
    (tmp_path / "study.db").rename(tmp_path / "away.db")
    wait(lambda: "KdDatabaseAway" in watch.firing(), watch.firing)
    fired = {"KdFailuresRise", "KdNoHeartbeat", "KdNoTrialFinished", "KdDatabaseAway"}
    rules = yaml.safe_load((DEPLOYED / "alerts.yml").read_text())["groups"]
    assert fired == {rule["alert"] for group in rules for rule in group["rules"]}
