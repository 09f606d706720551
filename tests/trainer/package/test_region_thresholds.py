"""Packages of regions whose thresholds differ say so under a number that older readers refuse."""

import math

import numpy as np
import pytest

from trainer.package.inference import Preprocessing, labels

REGIONS = {
    "schema": 5, "size": 32, "fit": "letterbox", "mean": (0.0,) * 3, "std": (1.0,) * 3, "classes": ("whole", "core"),
    "regions": True, "threshold": None, "thresholds": (0.2, 0.7), "threshold_from": "validation",
}  # fmt: skip


def test_each_region_has_its_own_threshold():
    p = Preprocessing.model_validate(REGIONS)
    assert p.least == (0.2, 0.7)
    edges = [math.log(share / (1 - share)) for share in p.least]
    logits = np.array([[[edge - 0.01, edge + 0.01]] for edge in edges], np.float32)
    assert labels(logits, p.least, regions=True).tolist() == [[[0, 1]], [[0, 1]]]
    together = Preprocessing.model_validate(REGIONS | {"schema": 3, "threshold": 0.5, "thresholds": None})
    assert together.least == (0.5,)
    assert "thresholds" not in together.model_dump()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thresholds": (0.2,)}, "expected one for each of 2 regions"),
        ({"threshold": 0.5}, "and no threshold"),
        ({"schema": 3}, "thresholds: of schema 5 alone"),
        ({"thresholds": None}, "thresholds: of schema 5 alone"),
        ({"schema": 3, "thresholds": None}, "threshold: missing; regions have one"),
        ({"thresholds": (0.2, 1.0)}, "less than 1"),
        ({"regions": False}, "which this lacks"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.model_validate(REGIONS | changes)
