"""What Prometheus is shown is what the database holds; panels and rules ask for figures that there are."""

import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import search.__main__ as search_main
from search.dashboard import metrics
from search.dashboard.metrics import COUNTERS, FAMILIES, Beats, Collector
from search.storage.database import open_storage
from search.study.progress import read_progress
from trainer.errors import UserError
from trainer.loggers import prometheus

ROOT = Path(__file__).resolve().parents[3]
DEPLOYED = ROOT / "deploy" / "metrics"
PROMTOOL = shutil.which("promtool")
needs_client = pytest.mark.skipif(find_spec("prometheus_client") is None, reason="the extra `metrics` is not installed")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus")
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(text: str) -> Samples:
    lines = [SAMPLE.fullmatch(line) for line in text.splitlines() if line and line[0] != "#"]
    assert all(lines)
    return {(m[1], frozenset(re.findall(r'(\w+)="([^"]*)"', m[2] or ""))): float(m[3]) for m in lines if m}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, small_study: Callable[..., str]) -> str:
    """A search that was simulated to its end, with some failures."""
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "seen.toml").write_text(small_study(trials=12, more="max_failed = 100\n"))
    url = f"sqlite:///{folder / 'study.db'}"
    words = ["simulate", str(folder / "seen.toml"), "--storage", url, "--runs", str(folder / "runs")]
    assert search_main.main([*words, "--workers", "1", "--fail-share", "0.3", "--as-worker"]) == 0
    return url


@pytest.fixture(scope="module")
def text(url: str) -> str:
    client = pytest.importorskip("prometheus_client", reason="the extra `metrics` is not installed")
    registry = client.CollectorRegistry()
    registry.register(Collector(open_storage(url, create=False)))
    return str(client.generate_latest(registry).decode())


def test_the_text_says_what_the_database_holds(text: str, url: str) -> None:
    samples = samples_of(text)
    opened = open_storage(url, create=False)
    progress = read_progress(opened, "seen")
    ((name, arm),) = progress.arms.items()

    def value(family: str, **labels: str) -> float:
        return samples[family, frozenset({"study": "seen", **labels}.items())]

    for state in ("complete", "pruned", "running", "waiting"):
        assert value("kd_trials", arm=name, state=state) == getattr(arm, state)
    assert arm.failures > 0
    assert value("kd_trials", arm=name, state="failed") == arm.failures
    assert sum(v for (family, _), v in samples.items() if family == "kd_failed_trials_total") == arm.failures
    assert arm.best is not None
    assert value("kd_best_score", arm=name, metric="dice") == arm.best.score
    assert value("kd_budget_trials", arm=name) == 12 == arm.finished
    assert value("kd_search_ended") == 1
    assert value("kd_trials_per_hour") == progress.trials_an_hour
    assert value("kd_device_seconds_total") == pytest.approx(progress.gpu_hours * 3600)
    assert 0 <= value("kd_finished_age_seconds") < 600
    assert value("kd_attempts_total", why="finished") == arm.complete
    assert samples["kd_database_up", frozenset()] == 1
    opened.engine.dispose()


def test_names_and_labels_are_ones_that_prometheus_keeps() -> None:
    own = {name: (*prometheus.LABELS, label or "part") for name, (_, _, label) in prometheus.FAMILIES.items()}
    for name, labels in {**{name: labels for name, (_, labels) in FAMILIES.items()}, **own}.items():
        assert all(re.fullmatch("[a-z_]+", word) for word in (name, *labels))
    assert not set(FAMILIES) & set(prometheus.FAMILIES)
    assert set(FAMILIES) >= COUNTERS


def test_the_age_of_a_beat_grows_until_it_rises_or_the_trial_changes_hands() -> None:
    beats = Beats()

    def row(trial: int, beat: int, token: int = 1, state: str = "held", host: str = "gpu1") -> Any:
        return SimpleNamespace(trial_id=trial, beat=beat, token=token, state=state, host=host)

    assert beats.ages("a", [row(1, 5), row(2, 7)], 100.0) == {"gpu1": 0.0}
    assert beats.ages("a", [row(1, 6), row(2, 7)], 130.0) == {"gpu1": 30.0}
    assert beats.ages("b", [row(1, 5, host="gpu2")], 140.0) == {"gpu2": 0.0}
    assert beats.ages("a", [row(1, 6), row(2, 0, token=2)], 150.0) == {"gpu1": 20.0}
    assert beats.ages("a", [row(1, 6, state="free"), row(2, 0, token=2, state="finished")], 160.0) == {}
    assert beats.ages("a", [row(1, 6)], 170.0) == {"gpu1": 0.0}


@needs_client
def test_a_database_that_is_away_is_one_figure_and_no_old_ones(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = Collector(open_storage(url, create=False))
    monkeypatch.setattr(metrics, "look_again", lambda _: None)
    families = list(collector.collect())
    assert [(f.name, f.samples[0].value) for f in families] == [("kd_database_up", 0.0)]


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UserError, match=r"\[metrics\]"):
        metrics.prometheus()


@needs_client
def test_it_listens_to_this_machine_alone_and_ends_when_it_is_told(url: str, launch: Callable[..., Any]) -> None:
    served = launch("search", "metrics", "--storage", url, "--port", "0")
    try:
        match = None
        for _ in range(600):
            match = re.search(r"http://127\.0\.0\.1:\d+/metrics", served.log)
            if match or served.poll() is not None:
                break
            time.sleep(0.05)
        assert match is not None, served.log
        with urllib.request.urlopen(match[0], timeout=20) as answer:  # noqa: S310 - an address of this machine
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert b'kd_search_ended{study="seen"} 1.0' in answer.read()
        strange = urllib.request.Request(match[0], headers={"Host": "evil.example:9108"})  # noqa: S310
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(strange, timeout=20)  # noqa: S310
    finally:
        served.send_signal(15)
    assert served.wait() == 0


# ---- the files of deploy/metrics


def expressions() -> Iterator[str]:
    for panel in json.loads((DEPLOYED / "grafana.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((DEPLOYED / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_panels_and_rules_ask_for_families_and_labels_that_there_are() -> None:
    names = {f"{name}_total" if name in COUNTERS else name: set(labels) for name, (_, labels) in FAMILIES.items()}
    names["kd_database_up"] = set()
    for name, (kind, _, label) in prometheus.FAMILIES.items():
        names[name + "_total" * (kind == "counter")] = {*prometheus.LABELS, *([label] if label else [])}
    asked = set()
    for expression in expressions():
        found = re.findall(r"(kd_\w+)(?:\{([^}]*)\})?", expression)
        assert found, expression
        for name, selector in found:
            assert set(re.findall(r"(\w+)=", selector)) <= names[name], expression
            asked.add(name)
    assert asked >= set(names)


@needs_promtool
def test_promtool_takes_the_text_the_rules_and_fires_each_alert(text: str) -> None:
    for words, given in (
        (["check", "metrics"], text),
        (["check", "rules", str(DEPLOYED / "alerts.yml")], ""),
        (["test", "rules", str(DEPLOYED / "alerts.test.yml")], ""),
    ):
        done = subprocess.run([str(PROMTOOL), *words], input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    fired = {
        rule["alert"]
        for group in yaml.safe_load((DEPLOYED / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    }
    tested = re.findall(r"alertname: (\w+)\n", (DEPLOYED / "alerts.test.yml").read_text())
    assert fired == set(tested)
