"""A signal between two images that are scored ends a process at once, and what goes on from there gives the same."""

import signal
import time
from pathlib import Path

import torch

from trainer import checkpoint
from trainer.config import RunConfig
from trainer.data import Opening
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.evaluation.per_image import FinalEvaluation
from trainer.reports import EpochReport, Resume

OPENING = Opening("me", "2026-01-01T00:00:00Z", "a test")
RUN = {
    "epochs": 2,
    "batch_size": 4,
    "data": {"name": "blobs", "size": 32, "train": 8, "validation": 4, "test": 40},
    "student": {"name": "unet", "width": 2},
    "losses": {"ce": {}},
}
REPLAY = ((1, 0),)

CHILD = """
import sys, time
from pathlib import Path
from tests.trainer.engine.test_stopping import cohort_of
from trainer.distributed import signals
from trainer.distributed.ranks import Ranks
from trainer.evaluation import per_image
from trainer.reports import Stopped

folder, columns = Path({folder!r}), per_image.image_columns

def slow(odds, truth, threshold):
    with (folder / "measured").open("a") as file:
        file.write("x")
    time.sleep(0.3)
    return columns(odds, truth, threshold)

per_image.image_columns = slow
ranks = Ranks("cpu")
signals.obey_signals(ranks.ask_to_stop)
cohort = cohort_of(ranks, folder, folder / "state.pt")
try:
    cohort.epoch()
except Stopped as stopped:
    print(stopped, flush=True)
    sys.exit(3)
"""


def cohort_of(ranks: Ranks, folder: Path, state: Path | None = None) -> Cohort:
    """A run that is examined after its second epoch, from the beginning or from a checkpoint."""
    cohort = Cohort(ranks, slots=1, cache=folder / "cache", examination=FinalEvaluation(OPENING, folder / "cache"))
    cohort.admit(0, RunConfig.model_validate(RUN), None if state is None else Resume(state, REPLAY))
    return cohort


def ended(cohort: Cohort, folder: Path) -> tuple[str, dict[str, torch.Tensor]]:
    report = cohort.epoch()[0]
    assert isinstance(report, EpochReport)
    folder.mkdir()
    return str(report.measured), dict(checkpoint.weights(cohort.export(0, folder / "w.safetensors").path).tensors)


def test_an_examination_is_left_between_two_images_and_done_again_to_the_same_bits(tmp_path: Path, fork) -> None:
    """40 images of 0.3 s each are waited for by nobody."""
    cohort = cohort_of(Ranks("cpu"), tmp_path)
    cohort.epoch()
    cohort.snapshot(0)(tmp_path / "state.pt")
    measured, weights = ended(cohort, tmp_path / "whole")
    child, seen = fork(CHILD.format(folder=str(tmp_path))), tmp_path / "measured"
    deadline = time.monotonic() + 120
    while not seen.exists() or seen.stat().st_size < 3:
        assert time.monotonic() < deadline
        assert child.poll() is None, child.log
        time.sleep(0.02)
    before = seen.stat().st_size
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 3
    assert seen.stat().st_size - before <= 8
    assert "asked to stop: " in child.log
    assert "asked to stop while images were scored" in child.log
    again, same = ended(cohort_of(Ranks("cpu"), tmp_path, tmp_path / "state.pt"), tmp_path / "again")
    assert again == measured
    assert all(torch.equal(same[name], weights[name]) for name in weights)
