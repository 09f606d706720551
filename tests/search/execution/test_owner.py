"""Who a worker is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.execution.owner import owner_of

ROOT = Path(__file__).resolve().parents[3]


def test_an_owner_has_one_name_inside_and_outside_and_another_in_another_pid_namespace() -> None:
    code = "import os; from search.execution.owner import this_owner; print(this_owner(3).name, flush=True); input()"
    environment = {k: v for k, v in os.environ.items() if k != "TORCHELASTIC_RUN_ID"}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stdin=-1, stdout=-1, text=True
    ) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        name = inside.stdout.readline().strip()
        assert name == owner_of(inside.pid, 3).name
        inside.stdin.write("\n")
    namespace = os.stat("/proc/self/ns/pid").st_ino
    assert name.split(":")[1] == str(namespace)
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may make no pid namespaces")
    done = subprocess.run(
        [*apart, sys.executable, "-c", code], cwd=ROOT, env=environment, input="\n", capture_output=True, text=True
    )
    assert done.stdout.split(":")[2] == "1"
    assert done.stdout.split(":")[1] != str(namespace)
