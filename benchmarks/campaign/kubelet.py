"""Pods of a Job without a cluster: started, asked to stop, killed and replaced as the kubelet and the Job's rules do.

A pod here is what `python -m search work` is, the ranks' supervisor, over one rank that simulates its training.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "deploy/kubernetes/base/workers.yaml"
_RANK = """
import sys
sys.path.insert(0, {root!r})
from search.__main__ import main
from trainer.distributed.supervisor import record_exit_code
sys.exit(record_exit_code(main({words!r})))
"""
POD = """
import sys
from pathlib import Path
from trainer.distributed.supervisor import supervise
sys.exit(supervise(Path({script!r}), [], ranks="1", restarts=3, stop_seconds=100))
"""


def write_rank(path: Path, words: Sequence[str]) -> Path:
    """The script of a pod's rank: `python -m search simulate WORDS --as-worker`."""
    path.write_text(_RANK.format(root=str(ROOT), words=["simulate", *words, "--as-worker"]))
    return path


def answer(job: Mapping[str, Any], code: int, *, disrupted: bool) -> str:
    """What the Job does with a pod that ended so, by the first rule of its manifest that fits.

    job: the `spec`. disrupted: whether the cluster set the pod's condition DisruptionTarget.
    """
    for rule in job["podFailurePolicy"]["rules"]:
        if code in rule.get("onExitCodes", {}).get("values", []) or (disrupted and rule.get("onPodConditions")):
            return str(rule["action"])
    return "Count"


def family(pid: int) -> list[int]:
    """A process and all that it started, as far as they live."""
    below: list[str] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below += task.read_text().split()
        except OSError:  # it has just ended
            continue
    return [pid, *(each for child in below for each in family(int(child)))]


def kill_all(pid: int) -> None:
    """What ends a container that has no time, or no memory, left: KILL for each of its processes."""
    for each in family(pid):
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:  # it ended with its parent
            continue


@dataclass
class Pod:
    """One pod of an index, and how it was made to end."""

    index: int
    process: "subprocess.Popen[bytes]"
    kind: str = ""
    """The disruption that hit it; empty: none yet."""
    asked: float = 0.0
    """Monotonic seconds of that."""

    def code(self) -> int:
        """What the kubelet reports of a container that ended: 128 and the signal's number where one killed it."""
        status = self.process.wait()
        return 128 - status if status < 0 else status


@dataclass
class Ended:
    """A pod that ended, and what the Job made of it."""

    index: int
    kind: str
    code: int
    action: str
    seconds: float
    """From the disruption to the end; 0 where there was none."""


@dataclass
class IndexedJob:
    """The Job's controller: each index has one pod, and gets a new one until it ends with 0."""

    spec: Mapping[str, Any]
    script: Path
    environment: Mapping[str, str]
    logs: Path
    pods: dict[int, Pod] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    counted: dict[int, int] = field(default_factory=dict)
    """Ends of each index that count against `backoffLimitPerIndex`."""
    failed: str = ""
    """Why the whole Job failed; empty while it has not."""

    def start(self, count: int) -> None:
        """The first pod of each index."""
        for index in range(count):
            self._start(index)

    def _start(self, index: int) -> None:
        words = [sys.executable, "-c", POD.format(script=str(self.script))]
        log = self.logs / f"pod-{index}-{len(self.ended)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(words, env=dict(self.environment), stdout=file, stderr=subprocess.STDOUT)
        self.pods[index] = Pod(index, process)

    def tend(self, disruptions: Mapping[str, bool]) -> None:
        """Answer each pod that ended. disruptions: kind -> whether the cluster calls it one (DisruptionTarget)."""
        for index, pod in list(self.pods.items()):
            if pod.process.poll() is None:
                continue
            del self.pods[index]
            code = pod.code()
            action = "Complete" if code == 0 else answer(self.spec, code, disrupted=disruptions.get(pod.kind, False))
            seconds = time.monotonic() - pod.asked if pod.kind else 0.0
            self.ended.append(Ended(index, pod.kind, code, action, seconds))
            if action == "Complete":
                continue
            self.counted[index] = self.counted.get(index, 0) + (action == "Count")
            if action == "FailJob" or self.counted[index] > int(self.spec["backoffLimitPerIndex"]):
                self.failed = f"index {index}: {pod.kind or 'no disruption'}, code {code}: {action}"
            else:
                self._start(index)

    def end(self) -> None:
        """Kill what still runs."""
        for pod in self.pods.values():
            kill_all(pod.process.pid)
            pod.process.wait()
