"""The Job of `benchmarks.evictions` does with pods what the manifest says, and its report sees what is wrong."""

import argparse
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from benchmarks import evictions, fleet
from benchmarks.campaign.kubelet import MANIFEST, Ended, IndexedJob, Pod, answer
from benchmarks.campaign.verdict import Count
from trainer.errors import UserError

SPEC = next(yaml.safe_load_all(MANIFEST.read_text()))["spec"]


class Scripted(IndexedJob):
    """Its pods end at once, with these codes in turn; a negative one is a signal's."""

    codes: Iterator[int]

    def _start(self, index: int) -> None:
        code = next(self.codes)
        words = f"exit {code}" if code >= 0 else f"kill -{-code} $$"
        self.pods[index] = Pod(index, subprocess.Popen(["sh", "-c", words]))


def run(tmp_path: Path, *codes: int, kind: str = "evicted") -> Scripted:
    job = Scripted(SPEC, tmp_path / "rank.py", {}, tmp_path)
    job.codes = iter(codes)
    job.start(1)
    end = time.monotonic() + 20
    while job.pods and not job.failed:
        for pod in job.pods.values():
            pod.kind, pod.asked = kind, time.monotonic()
        job.tend({"evicted": True, "out of memory": False})
        assert time.monotonic() < end
        time.sleep(0.005)
    return job


def test_an_index_is_started_again_until_it_ends_with_0(tmp_path: Path) -> None:
    job = run(tmp_path, 143, -9, -15, 0)
    assert [(each.code, each.action) for each in job.ended] == [
        (143, "Ignore"),
        (137, "Ignore"),
        (143, "Ignore"),
        (0, "Complete"),
    ]
    assert not job.failed


def test_deaths_that_are_nobody_s_wish_count_and_mistakes_end_all(tmp_path: Path) -> None:
    job = run(tmp_path, *[-9] * 7, kind="out of memory")
    assert job.counted == {0: SPEC["backoffLimitPerIndex"] + 1}
    assert "index 0" in job.failed
    assert run(tmp_path, 2).failed.endswith("code 2: FailJob")
    assert answer(SPEC, 3, disrupted=True) == "FailJob"


@pytest.mark.parametrize("wrong", ["", "code", "lost", "left", "index"])
def test_the_report_sees_what_is_wrong(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = [Ended(0, "evicted", 1 if wrong == "code" else 143, "Ignore", 2.0), Ended(0, "", 0, "Complete", 0.0)]
    job = SimpleNamespace(ended=ended, counted={}, spec=SPEC, failed="")
    args = argparse.Namespace(pods=2 if wrong == "index" else 1)
    plan = ["deleted"] if wrong == "left" else []
    count = Count(finished=8, owed=8, lost=["kd: 7 of 8 finished"] if wrong == "lost" else [])
    code = evictions.report(SimpleNamespace(job=job, args=args, plan=plan), count, 60.0)  # type: ignore[arg-type]
    assert code == bool(wrong)
    assert "1 disruptions of" in capsys.readouterr().out


def test_rows_of_the_fleet_are_workers_on_studies() -> None:
    assert fleet.Row.parse("64x20p") == fleet.Row(64, 20, pooled=True)
    for text in ("64", "2x3", "64x0", "64x1q"):
        with pytest.raises(UserError, match="--rows"):
            fleet.Row.parse(text)
