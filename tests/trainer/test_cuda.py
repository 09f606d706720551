"""What only a GPU can show; skipped where there is none."""

import pytest
import torch

from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.epoch import StreamEpoch
from trainer.engine.fit import fit
from trainer.reports import EpochReport

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PLAIN = {
    "epochs": 3,
    "batch_size": 4,
    "data": {"name": "blobs", "size": 32, "train": 24, "validation": 6},
    "student": {"name": "unet", "width": 4},
    "losses": {"ce": {}},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A small network trained for one epoch, as a run's teacher table."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    for _ in fit(RunConfig.model_validate(PLAIN | {"epochs": 1}), cache=path.parent, export=path, ranks=Ranks("cuda")):
        pass
    return {"name": "unet", "width": 4, "checkpoint": str(path)}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("method", "losses"),
    [
        ("kl", {"ce": {}, "dice": {}, "kl": {}}),
        ("cwd", {"bce-dice": {}, "cwd": {}}),
        ("dist", {"ohem": {}, "dist": {}}),
        ("at", {"ce": {}, "at": {"taps": ["mid"]}, "selfreg": {}}),
    ],
)
@pytest.mark.parametrize("views", [None, 2])
def test_the_host_never_waits_for_the_device_inside_a_step(
    teacher, tmp_path, monkeypatch, precision, method, losses, views
) -> None:
    """CUDA raises at any synchronising call; the first epoch is left out, in which kernels are chosen and loaded."""
    if views is not None and method == "at":
        pytest.skip("views keep no taps")
    data = PLAIN["data"] | {"views": views}
    run = RunConfig.model_validate(
        PLAIN | {"precision": precision, "method": method, "losses": losses, "teacher": teacher, "data": data}
    )
    cohort = Cohort(Ranks("cuda"), slots=2, cache=tmp_path)
    cohort.admit(0, run)
    cohort.admit(1, run.model_copy(update={"optim": run.optim.model_copy(update={"clip": 1.0, "ema": True})}))
    assert all(isinstance(report, EpochReport) for report in cohort.epoch().values())
    plain, steps = StreamEpoch._step, []

    def watched(self, batches) -> None:
        steps.append(None)
        torch.cuda.set_sync_debug_mode("error")
        try:
            plain(self, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(StreamEpoch, "_step", watched)
    told = cohort.epoch()
    assert all(isinstance(report, EpochReport) for report in told.values()), told
    assert len(steps) == 6


def test_batches_lie_in_memory_that_the_device_fetches_by_itself(tmp_path) -> None:
    cohort = Cohort(Ranks("cuda"), slots=1, cache=tmp_path)
    cohort.admit(0, RunConfig.model_validate(PLAIN))
    stream = cohort._members[0].stream
    assert stream is not None
    assert all(batch.images.is_pinned() and batch.masks.is_pinned() for batch in stream.epoch(0))
