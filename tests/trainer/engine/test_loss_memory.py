"""Losses that learn, ramp and remember: a run that is interrupted goes on with all of it, and exports none of it."""

import pytest
import torch

from trainer import checkpoint
from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.fit import fit
from trainer.reports import Resume

RUN = {
    "epochs": 3,
    "batch_size": 4,
    "data": {"name": "blobs", "size": 32, "train": 8, "validation": 4},
    "student": {"name": "unet", "width": 2},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    plain = RunConfig.model_validate(
        {**RUN, "epochs": 1, "student": {"name": "unet", "width": 4}, "losses": {"ce": {}}}
    )
    for _ in fit(plain, cache=path.parent, export=path, ranks=Ranks("cpu")):
        pass
    terms = {
        "ce": {},
        "dkd": {"warmup": 2},
        "acfd": {"taps": ["dec1"], "alpha": 100.0, "beta": 100.0},
        "boundary-hard": {},
        "boundary-soft": {},
        "cwd-features": {"taps": ["mid"], "adapter": "conv"},
        "cirkd-memory": {"tap": "enc2", "queue": 50, "contrast": 40},
        "cirkd-region": {"tap": "mid", "queue": 5, "contrast": 40},
    }
    teacher = {"name": "unet", "width": 4, "checkpoint": str(path)}
    method = "+".join(name for name in terms if name != "ce")
    return RunConfig.model_validate({**RUN, "teacher": teacher, "method": method, "losses": terms})


def state(cohort):
    return cohort._members[0].trained.state()


def test_a_resumed_run_has_learnt_and_remembers_what_an_unbroken_one_does(run, tmp_path):
    whole, broken, second = (Cohort(Ranks("cpu"), slots=1, cache=tmp_path) for _ in range(3))
    whole.admit(0, run)
    broken.admit(0, run)
    reports = [whole.epoch()[0] for _ in range(3)]
    broken.epoch()
    saved = broken.snapshot(0)(tmp_path / "epoch.pt")
    second.admit(0, run, Resume(saved.path, broken.replay(0)))
    rest = [second.epoch()[0] for _ in range(2)]
    assert [report.losses for report in rest] == [report.losses for report in reports[1:]]
    for part in ("network", "losses"):
        kept = state(whole)[part]
        assert all(torch.equal(x, state(second)[part][key]) for key, x in kept.items())
    memory = {key: x for key, x in state(second)["losses"].items() if key.endswith("pushed")}
    assert len(memory) == 2
    assert all(x.sum() > 0 for x in memory.values())
    assert reports[0].losses["boundary-soft"] == 0.0
    assert reports[2].losses["boundary-soft"] > 0.0
    assert reports[0].losses["cirkd-memory"] > 0.0
    shipped = checkpoint.weights(whole.export(0, tmp_path / "student.safetensors").path).tensors
    assert set(shipped) == set(state(whole)["network"])
