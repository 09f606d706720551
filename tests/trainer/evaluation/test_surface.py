"""Distances between surfaces: by definition, as MedPy and MONAI have them, and what counts where a mask is empty."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.mask_pairs import Pair, every
from trainer.evaluation.surface import (
    DISTANCES,
    asd,
    diagonal,
    hd95,
    hd95_larger,
    missed_as_diagonal,
    region_surface_scores,
    scores_of,
    surface_dice,
    surface_distances,
    surface_scores,
)

FROZEN: dict[str, Any] = json.loads(Path(__file__).with_name("peer_scores.json").read_text())
"""What the libraries gave; `python -m benchmarks.scores_against_peers --freeze` writes it."""


def surface(mask: np.ndarray) -> np.ndarray:
    """Places with a neighbour across a face that is background or outside, one a row."""
    padded = np.pad(mask, 1)
    inner = np.ones_like(mask)
    for axis in range(mask.ndim):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)[(slice(1, -1),) * mask.ndim]
    return np.argwhere(mask & ~inner)


def directed(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    places = [surface(mask) * np.array(spacing) for mask in (one, other)]
    return np.linalg.norm(places[0][:, None] - places[1][None], axis=-1).min(axis=1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.one_of(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 5)] * 3)),
    in_mm=st.booleans(),
)
def test_distances_are_those_between_the_places_of_the_surfaces(seed: int, shape: tuple[int, ...], in_mm: bool):
    rng = np.random.default_rng(seed)
    one, other = (rng.random(shape) < rng.uniform(0.2, 0.9) for _ in range(2))
    spacing = tuple(rng.uniform(0.5, 3.0, len(shape))) if in_mm else None
    distances = surface_distances(one, other, spacing)
    if not one.any() or not other.any():
        assert all(math.isnan(measure(distances)) for measure in DISTANCES.values())
        assert [len(way) for way in distances] == [len(surface(one)), len(surface(other))]
        return
    unit = spacing or (1.0,) * len(shape)
    there, back = directed(one, other, unit), directed(other, one, unit)
    both = np.concatenate([there, back])
    assert sorted(distances.of_true) == pytest.approx(sorted(there))
    assert sorted(distances.of_predicted) == pytest.approx(sorted(back))
    assert hd95(distances) == pytest.approx(np.percentile(both, 95))
    assert hd95_larger(distances) == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))
    assert asd(distances) == pytest.approx(both.mean())
    assert surface_dice(distances, 1.1) == pytest.approx((both <= 1.1).mean())


def test_the_two_forms_of_hd95_differ_where_less_than_a_twentieth_of_both_surfaces_is_far_off():
    """Six of 64 + 70 distances are: below the pooled percentile, above that of the prediction's own surface."""
    true = np.zeros((30, 30), bool)
    true[5:22, 5:22] = True
    predicted = true.copy()
    predicted[28, 1:12:2] = True
    distances = surface_distances(true, predicted)
    assert (len(distances.of_true), len(distances.of_predicted)) == (64, 70)
    assert hd95(distances) == 0
    assert hd95_larger(distances) > 6


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    return {pair.name: pair for pair in every() if pair.name in FROZEN["pairs"]}


@pytest.mark.parametrize("name", FROZEN["pairs"])
def test_scores_equal_medpys_and_monais(pairs: dict[str, Pair], name: str):
    pair, peers = pairs[name], FROZEN["pairs"][name]
    assert pair.digest() == peers["digest"], "numpy draws other masks now: freeze them again"
    names = [str(label) for label in range(1, pair.classes)]
    own = surface_scores(pair.predicted, pair.truth, names, tolerance=FROZEN["tolerance"], spacing=pair.spacing)
    for label, values in peers["classes"].items():
        expected = {key.split()[1]: value for key, value in values.items() if key.startswith("MONAI")}
        for score in ("hd95_larger", "asd", "surface_dice"):
            assert own[f"{score}.{label}"] == pytest.approx(expected[score], rel=2e-5), (label, score)
        # MedPy's distance is ours to the last bit, and so is its percentile.
        assert own[f"hd95.{label}"] == values["MedPy hd95"]
        assert own[f"asd.{label}"] == pytest.approx(values["MedPy asd"], rel=1e-12)


def test_the_frozen_values_hold_every_kind_of_pair():
    volumes = {name: values for name, values in FROZEN["pairs"].items() if values["classes"]}
    assert set(FROZEN["versions"]) >= {"monai", "MedPy"}
    assert len(volumes) >= 15
    assert max(len(values["classes"]) for values in volumes.values()) >= 8


NOTHING, SOMETHING = np.zeros((4, 6), bool), np.pad(np.ones((2, 2), bool), ((1, 1), (1, 3)))


@pytest.mark.parametrize(
    ("true", "predicted", "missed", "made_up", "within", "as_diagonal"),
    [
        (NOTHING, NOTHING, 0, 0, 1.0, 0.0),
        (SOMETHING, NOTHING, 1, 0, 0.0, math.hypot(4, 6)),
        (NOTHING, SOMETHING, 0, 1, 0.0, math.hypot(4, 6)),
    ],
)
def test_where_a_mask_is_empty_there_is_no_distance_but_a_count_and_a_diagonal(
    true: np.ndarray, predicted: np.ndarray, missed: int, made_up: int, within: float, as_diagonal: float
):
    row = scores_of(surface_distances(true, predicted), diagonal(true.shape), tolerance=1.0)
    for name in DISTANCES:
        assert math.isnan(row[name])
        assert row[f"{name}_missed_as_diagonal"] == as_diagonal
    assert (row["class_missed"], row["class_made_up"], row["surface_dice"]) == (missed, made_up, within)


def test_a_distance_that_both_have_is_the_same_with_misses_as_the_diagonal():
    distances = surface_distances(SOMETHING, np.roll(SOMETHING, 2, axis=1))
    assert missed_as_diagonal(hd95(distances), distances, 99.0) == hd95(distances) == 2.0


def test_lengths_are_in_the_unit_of_the_spacing():
    corner = np.zeros((4, 5, 6), bool)
    corner[0, 0, 0] = True
    opposite = np.flip(corner)
    assert hd95(surface_distances(corner, opposite)) == pytest.approx(math.hypot(3, 4, 5))
    assert hd95(surface_distances(corner, opposite, (0.5, 2.0, 1.0))) == pytest.approx(math.hypot(1.5, 8, 5))
    assert diagonal((4, 5, 6), (0.5, 2.0, 1.0)) == pytest.approx(math.hypot(2, 10, 6))
    assert surface_dice(surface_distances(corner, opposite, (0.1, 0.1, 0.1)), 1.0) == 1.0


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, math.nan), (1.0, math.inf), (-1.0, 1.0)])
def test_a_spacing_that_is_none_is_refused_in_one_line(spacing: tuple[float, ...]):
    with pytest.raises(ValueError, match=r"^spacing = \(.*\): has to be 2 positive lengths, one for each axis$"):
        surface_distances(SOMETHING, SOMETHING, spacing)


def test_a_bare_name_is_the_mean_over_the_classes_that_have_a_value():
    truth = np.zeros((9, 9), np.uint8)
    truth[1:3, 1:3], truth[5:8, 5:8] = 1, 2
    predicted = np.roll(truth, 1, axis=0)
    predicted[predicted == 2] = 0
    row = surface_scores(predicted, truth, ["liver", "spleen", "gallbladder"], tolerance=1.0)
    assert row["hd95.liver"] == row["hd95"] == 1.0
    assert math.isnan(row["hd95.spleen"])
    assert math.isnan(row["hd95.gallbladder"])
    longest = math.hypot(9, 9)
    assert row["hd95_missed_as_diagonal"] == pytest.approx((1.0 + longest + 0.0) / 3)
    assert row["class_missed"] == pytest.approx(1 / 3)
    assert (row["class_missed.spleen"], row["class_missed.gallbladder"]) == (1.0, 0.0)
    assert math.isnan(surface_scores(0 * truth, 0 * truth, ["liver"], tolerance=1.0)["hd95"])


def test_ignored_pixels_are_in_no_class():
    truth = np.zeros((6, 6), np.uint8)
    truth[1:3, 1:3], truth[4:] = 1, 255
    predicted = truth.copy()
    predicted[4:] = 1
    row = surface_scores(predicted, truth, ["liver"], tolerance=0.0)
    assert (row["hd95"], row["surface_dice"]) == (0.0, 1.0)


def test_overlapping_regions_score_as_masks_of_their_own():
    rng = np.random.default_rng(0)
    truth, predicted = (
        np.pad(rng.random((3, 6, 6)) < 0.5, ((0, 0), (1, 1), (1, 1))).astype(np.uint8) for _ in range(2)
    )
    truth[2, 0] = 255
    row = region_surface_scores(predicted, truth, ["TC", "WT", "ET"], tolerance=1.0, spacing=(1.0, 2.0))
    for region, name in enumerate(("TC", "WT", "ET")):
        alone = surface_scores(predicted[region], truth[region], ["it"], tolerance=1.0, spacing=(1.0, 2.0))
        assert {key: row[f"{key}.{name}"] for key in DISTANCES} == {key: alone[key] for key in DISTANCES}


def test_a_mask_may_be_the_prediction_of_two_classes():
    row = surface_scores(SOMETHING, SOMETHING.astype(np.uint8), ["polyp"], tolerance=0.0)
    assert row["asd.polyp"] == row["asd"] == 0.0
