"""The forecast of room for checkpoints against files that a real run writes."""

from pathlib import Path

import pytest

from search.commands.preflight import preflight
from search.planning.disk import disk_forecast, format_bytes, state_bytes, weights_bytes
from search.spec.load import load
from trainer.config import RunConfig
from trainer.dry_run import check
from trainer.engine.fit import fit

RUN = {
    "epochs": 1,
    "batch_size": 4,
    "data": {"name": "blobs", "size": 32, "train": 4, "validation": 2, "augment": "none"},
    "student": {"name": "unet", "width": 8},
    "losses": {"ce": {}},
}


@pytest.mark.parametrize(("optimizer", "ema"), [("adamw", False), ("sgd", True)])
def test_a_forecast_is_within_two_parts_in_a_hundred(tmp_path: Path, optimizer: str, ema: bool) -> None:
    run = RunConfig.model_validate(RUN | {"optim": {"name": optimizer, "ema": ema}})
    state, weights = tmp_path / "state.pt", tmp_path / "best.safetensors"
    list(fit(run, cache=tmp_path / "cache", save=state, export=weights))
    params = check(run).params
    assert state.stat().st_size == pytest.approx(state_bytes(params, optimizer=optimizer, ema=ema), rel=0.02)
    assert weights.stat().st_size == pytest.approx(weights_bytes(params), rel=0.02)


def test_a_study_is_forecast_with_the_largest_of_each_arm(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("""
[objective]
maximize = "dice"
[run]
epochs = 2
data = { name = "blobs" }
student = { name = "unet", width = 8 }
losses = { ce = {} }
[space]
"student.width" = { choices = [4, 8] }
"optim.name" = { choices = ["sgd", "adam"] }
[budget]
trials = 10
in_flight = 3
[[arms]]
name = "small"
set = { "student.width" = 4 }
trials = 2
""")
    spec = load(tmp_path / "s.toml")
    facts = preflight(spec, None)
    wide, narrow = (max(size.params_m for size in arm.sizes) * 1e6 for arm in facts.arms)
    found = disk_forecast(spec, [wide / 1e6, narrow / 1e6])
    assert facts.disk == found
    assert found.kept_bytes == pytest.approx(10 * 4 * wide + 2 * 4 * narrow)
    assert found.running_bytes == pytest.approx(3 * 2 * 16 * wide + 2 * 2 * 16 * narrow)
    # Paused trials keep their checkpoints: all that are not in flight may be paused at once.
    spec = load(tmp_path / "s.toml", ["pruner.name=promote"])
    forecast = disk_forecast(spec, [wide / 1e6, narrow / 1e6])
    assert forecast.running_bytes == pytest.approx((3 * 2 + 7) * 16 * wide + 2 * 2 * 16 * narrow)
    assert disk_forecast(load(tmp_path / "s.toml", ["pruner.name=curves"]), [wide / 1e6, narrow / 1e6]) == forecast


def test_sizes_are_in_words() -> None:
    assert [format_bytes(size) for size in (2.4e10, 3.1e8, 10.0)] == ["24 GB", "310 MB", "1 MB"]
