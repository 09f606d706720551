"""A Job of Kubernetes without a cluster: pods are started, asked to stop, killed and replaced as its manifest says.

A pod here is what `search work` is, the ranks' supervisor, over one rank that simulates its training.
"""

import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from benchmarks.campaign.kubelet import MANIFEST, POD, ROOT, answer, family, kill_all, write_rank

JOB = next(yaml.safe_load_all(MANIFEST.read_text()))["spec"]
INDEXES = 2


def test_pods_that_come_and_go_finish_exactly_the_budget(
    herd: Any, tools: SimpleNamespace, fork: Callable[..., Any], tmp_path: Path
) -> None:
    """Evictions by TERM end with 143 and are not counted, one without grace ends with 137 and is not either; each index
    ends with 0, and only when no trial is left, so that the one that was evicted last is finished, too."""
    flags = ["--runs", str(tmp_path / "runs"), "--slots", "2", "--epoch-seconds", "1", "--ttl", str(tools.TTL)]
    script = write_rank(tmp_path / "rank.py", [str(herd.study), *flags])

    def start(index: int) -> Any:
        log = tmp_path / f"pod-{index}-{time.monotonic_ns()}.log"
        return fork(POD.format(script=str(script)), log=log, OPTUNA_STORAGE=herd.url, PYTHONPATH=str(ROOT))

    pods = {index: start(index) for index in range(INDEXES)}
    codes: list[int] = []
    for index in (0, 1, 0):
        tools.until(partial(holds_work, herd, pods[index]), 60)
        if len(codes) == 1:
            kill_all(pods[index].pid)
            assert pods[index].wait(30) == -signal.SIGKILL
            code = 137
        else:
            pods[index].send_signal(signal.SIGTERM)
            code = end_of(pods[index], JOB["template"]["spec"]["terminationGracePeriodSeconds"])
        codes.append(code)
        assert answer(JOB, code, disrupted=True) == "Ignore"
        pods[index] = start(index)
    assert codes == [143, 137, 143]
    assert answer(JOB, 143, disrupted=False) == "Ignore"  # a pod that somebody deleted
    assert [end_of(pod, 90) for pod in pods.values()] == [0] * INDEXES
    ends = herd.check()
    assert ends["finished"] == tools.TRIALS
    assert ends["preempted"] >= 2
    assert ends["lost"] >= 1
    assert set(ends) <= {"finished", "preempted", "lost"}


def end_of(pod: Any, seconds: float) -> int:
    try:
        return int(pod.wait(seconds))
    except subprocess.TimeoutExpired:
        raise AssertionError(f"pod {pod.pid} did not end within {seconds:g} s:\n{pod.log}") from None


def holds_work(herd: Any, pod: Any) -> bool:
    """Whether a process of a pod holds a trial that has an epoch behind it."""
    own = [f":{pid}:" for pid in family(pod.pid)]
    return any(row.epoch and any(pid in (row.owner or "") for pid in own) for row in herd.rows() if row.state == "held")
