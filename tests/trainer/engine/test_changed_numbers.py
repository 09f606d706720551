"""Runs of earlier versions that train to other numbers now are known by their settings."""

import pytest

from trainer.config import RunConfig
from trainer.engine.changed_numbers import CHANGES, REVISION, touched

RUN = {
    "data": {"name": "blobs", "size": 32},
    "teacher": {"name": "unet", "width": 8, "checkpoint": "teacher.safetensors"},
    "student": {"name": "unet", "width": 4},
    "epochs": 2,
    "batch_size": 4,
    "losses": {"ce": {}, "kl": {}, "dist": {"beta": 1.0}},
}


def run(method: str, **dist: float) -> RunConfig:
    """A run with this method and these options of dist."""
    return RunConfig.model_validate(RUN | {"method": method, "losses": RUN["losses"] | {"dist": dist}})  # type: ignore[operator]


@pytest.mark.parametrize(
    ("method", "dist", "revision", "changed"),
    [
        ("dist", {}, None, True),
        ("dist", {}, 1, True),
        ("dist", {"beta": 0.0}, None, False),
        ("kl", {}, None, False),
        ("none", {}, 1, False),
        ("dist", {}, REVISION, False),
    ],
)
def test_a_run_is_touched_where_it_uses_what_changed_since_it_was_trained(
    method: str, dist: dict[str, float], revision: int | None, changed: bool
) -> None:
    text = touched(run(method, **dist), revision)
    assert (text is not None) == changed
    assert text is None or "losses.dist.beta" in text


@pytest.mark.parametrize(("method", "revision", "changed"), [("cirkd-memory", 2, True), ("cirkd-region+kl", 3, False)])
def test_comparisons_with_a_memory_round_otherwise_since_the_third(method: str, revision: int, changed: bool) -> None:
    given = {"losses": {"ce": {}, "kl": {}, **{name: {"tap": "mid"} for name in ("cirkd-memory", "cirkd-region")}}}
    text = touched(RunConfig.model_validate(RUN | given | {"method": method}), revision)
    assert (text is not None) == changed
    assert text is None or "cirkd-memory" in text


def test_revisions_are_counted_from_two_on_without_a_gap() -> None:
    assert sorted({change.revision for change in CHANGES}) == list(range(2, REVISION + 1))
