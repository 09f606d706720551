"""Intervals hold the truth, verdicts follow from them, and what is compared is fair."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from benchmarks.coverage import World, study
from search.__main__ import main
from search.answer.build import answer
from search.answer.comparisons import claim_line, made, pairs, verdict
from search.answer.power import LONG, Noise, measured, smallest_gain
from search.answer.uncertainty import estimate, holm
from search.confirm.configurations import Configuration
from search.confirm.results import Confirmed, PerImageScores
from search.report.tables import _by_seed
from search.spec.config import Choose
from search.spec.load import load
from trainer.evaluation.score_names import SCORE_KINDS

IMAGES = 40
SEEDS = (11, 12, 13, 14, 15)


def test_one_image_a_group_and_seeds_without_a_say_is_the_t_test_of_images():
    values = np.random.default_rng(0).normal(0.1, 1.0, 50)
    found = estimate(np.tile(values, (4, 1)), tuple(map(str, range(50))))
    low, high = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found.interval(0.95) == pytest.approx((low, high))
    assert found.two_sided() == pytest.approx(ttest_1samp(values, 0.0).pvalue)


def test_images_without_a_say_is_the_t_test_of_seeds():
    values = np.random.default_rng(0).normal(0.1, 1.0, (5, 1))
    found = estimate(np.tile(values, (1, 30)), tuple(map(str, range(30))))
    assert found.interval(0.95) == pytest.approx(ttest_1samp(values[:, 0], 0.0).confidence_interval(0.95))


def test_an_interval_of_a_share_is_cut_where_no_mean_can_lie():
    values = np.array([[0.99, 1.0] * 6, [1.0, 0.9] * 6])
    found = estimate(values, tuple(map(str, range(12))))
    low, high = found.interval(0.95)
    assert high > 1.0
    assert found.interval(0.95, SCORE_KINDS["dice"].bounds) == (low, 1.0)
    assert found.interval(0.95, SCORE_KINDS["hd95"].bounds) == (low, high)


def test_the_interval_of_a_difference_of_shares_ends_at_one_and_of_lengths_nowhere():
    values = np.array([[0.9, 0.8] * 6, [-0.7, -0.6] * 6])
    unsure = estimate(values, tuple(map(str, range(12))))
    low, high = unsure.interval(0.95)
    assert low < -1.0 < 1.0 < high
    pair = next(iter(pairs(confirmed())))
    for metric, ends in (("dice", (-1.0, 1.0)), ("dice.polyp", (-1.0, 1.0)), ("hd95_missed_as_diagonal", (low, high))):
        claim = made(pair, "test", unsure, 2, metric=metric, unit="", confidence=0.95)
        assert (claim.low, claim.high, claim.p) == (*ends, unsure.two_sided())


def test_frames_of_one_sequence_are_no_independent_images():
    """Every image ten times, as frames of one sequence: the interval is that of the sequences."""
    draw = np.random.default_rng(0)
    values = draw.normal(0.0, 1.0, 20) + draw.normal(0.0, 0.1, (3, 20))
    names = tuple(map(str, range(20)))
    once, often = (
        estimate(values, names),
        estimate(np.repeat(values, 10, axis=1), tuple(n for n in names for _ in range(10))),
    )
    assert often.interval(0.95) == pytest.approx(once.interval(0.95))
    assert estimate(np.repeat(values, 10, axis=1), tuple(map(str, range(200)))).error < once.error


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 6), st.integers(10, 30))
def test_the_order_of_seeds_and_images_is_of_no_account(seed, seeds, groups):
    draw = np.random.default_rng(seed)
    index = np.concatenate((np.arange(groups), draw.integers(0, groups, 20)))
    values, order = draw.normal(size=(seeds, len(index))), draw.permutation(len(index))
    one = estimate(values, tuple(map(str, index)))
    other = estimate(values[draw.permutation(seeds)][:, order], tuple(map(str, index[order])))
    assert (one.value, one.error, one.freedom) == pytest.approx((other.value, other.error, other.freedom))
    assert one.error >= 0


@pytest.mark.parametrize(("seeds", "groups", "why"), [(5, 9, "9 groups are fewer than 10"), (1, 40, "1 seed is")])
def test_too_few_groups_or_seeds_have_a_mean_and_no_interval(seeds, groups, why):
    found = estimate(np.ones((seeds, 40)), tuple(str(i % groups) for i in range(40)))
    assert (found.value, found.interval(0.95), found.two_sided()) == (1.0, None, None)
    assert found.reason.startswith(why)
    assert verdict(found.value, found.two_sided(), 0.95) == "not estimable"


def test_images_without_a_value_are_left_out_for_all_seeds():
    values = np.ones((2, 12))
    values[1, 3] = math.nan
    found = estimate(values, tuple(map(str, range(12))))
    assert (found.images, found.groups, found.value) == (11, 11, 1.0)


def test_two_networks_that_predict_the_same_differ_by_nothing_that_is_shown():
    """Every difference is zero, and so is its error: no division by it, and no harm."""
    same = estimate(np.zeros((3, 12)), tuple("abcdefghijkl"))
    assert (same.error, same.two_sided()) == (0.0, 1.0)
    assert verdict(same.value, same.two_sided(), 0.95) == verdict(0.0, 0.0, 0.95) == "not_shown"
    assert estimate(np.full((3, 12), 0.25), tuple("abcdefghijkl")).two_sided() == 0.0


def test_holm_corrects_in_steps():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_over_many_studies_the_interval_holds_the_truth_and_one_seeds_t_test_does_not():
    draw = np.random.default_rng(5)
    found = [study(draw, World(0.0, LONG)) for _ in range(400)]
    held = {m: np.mean([f["kd_term_effect"][m].held for f in found]) for m in ("seeds x groups", "t over images")}
    assert 0.93 <= held["seeds x groups"] <= 0.985
    assert held["t over images"] < 0.88
    assert np.mean([f["kd_term_effect"]["seeds x groups"].shown for f in found]) <= 0.05
    assert np.mean([f["gain"]["best of N"].shown for f in found]) > 0.4


def test_the_smallest_gain_is_shown_four_times_of_five():
    """Simulated with the noise that the formula assumes."""
    noise, draw, shown = Noise(0.006, 0.05, 0.09), np.random.default_rng(0), 0
    gain = smallest_gain(60, 5, noise, claims=1)
    for _ in range(600):
        values = (
            gain
            + draw.normal(0, noise.seed, (5, 1))
            + draw.normal(0, noise.group, 60)
            + draw.normal(0, noise.both, (5, 60))
        )
        shown += estimate(values, tuple(map(str, range(60)))).interval(0.95)[0] > 0
    assert 0.72 <= shown / 600 <= 0.88
    assert smallest_gain(9, 5, noise) is None
    assert smallest_gain(60, 1, noise) is None
    assert smallest_gain(200, 5, noise, claims=1) < gain < smallest_gain(60, 3, noise, claims=1)
    assert gain < smallest_gain(60, 5, noise, claims=2) < smallest_gain(60, 5, noise)


def test_the_parts_of_the_noise_are_measured():
    draw, noise = np.random.default_rng(0), Noise(0.02, 0.05, 0.09)
    values = (
        draw.normal(0, noise.seed, (200, 1)) + draw.normal(0, noise.group, 300) + draw.normal(0, noise.both, (200, 300))
    )
    found = measured(values, tuple(map(str, range(300))))
    assert (found.seed, found.group, found.both) == pytest.approx((0.02, 0.05, 0.09), rel=0.15)
    with pytest.raises(ValueError, match="1 seeds and 300 groups"):
        measured(values[:1], tuple(map(str, range(300))))


def configuration(name: str, role: str, arm: str, params: int, **more: Any) -> Configuration:
    run = {
        "method": "none" if role != "winner" else "kl",
        "student": {"name": "unet", "width": 8},
        "teacher": {"name": "unet"},
    }
    values = dict(of=None, rank=1, trial=1, searched=0.8, gflops=params / 1e6) | more
    return Configuration(name=name, role=role, arm=arm, params=params, run=values.pop("run", run), **values)


ALL = (
    configuration("kd-1", "winner", "kd", 500),
    configuration("kd-2", "winner", "kd", 100, rank=2),
    configuration("no-kd-1", "control", "no-kd", 900),
    configuration("no-kd-2", "control", "no-kd", 400, rank=2),
    configuration("kd-1-without", "ablation", "kd", 500, of="kd-1"),
    configuration("defaults", "defaults", "kd", 500),
    configuration("teacher", "teacher", "kd", 5000),
)
LEVELS = {
    "kd-1": 0.85,
    "kd-2": 0.80,
    "no-kd-1": 0.90,
    "no-kd-2": 0.75,
    "kd-1-without": 0.85,
    "defaults": 0.79,
    "teacher": 0.86,
}


def findings(name: str, level: float, part: str) -> list[PerImageScores]:
    """Scores that scatter by image and seed around a level, with everything else made up alike."""
    draw = np.random.default_rng(len(part))  # the same images are hard for every network
    hard = draw.normal(0.0, 0.05, IMAGES)
    mine = np.random.default_rng(sum(map(ord, name + part)))
    seeds: tuple[int | None, ...] = (None,) if name == "teacher" else SEEDS
    area = np.linspace(0.0, 0.3, IMAGES)
    found = []
    for seed in seeds:
        dice = level + hard + mine.normal(0.0, 0.002) + mine.normal(0.0, 0.01, IMAGES)
        columns = {c: tuple(dice) for c in ("dice", "iou", "precision", "recall", "brier")}
        columns |= {
            "hd95": (math.nan, *([4.0] * (IMAGES - 1))), "area": tuple(area), "polyps": tuple(np.sign(area)),
            "hd95_missed_as_diagonal": (0.0, *([4.0] * (IMAGES - 2)), 50.0 if name == "kd-1" else 10.0),
            "missed": (0.0,) * (IMAGES - 1) + (1.0,), "false_positives": (2.0, *([0.0] * (IMAGES - 1))),
        }  # fmt: skip
        names = tuple(f"{part}/{i}.png" for i in range(IMAGES))
        bins = ((100.0, 90.0, 80.0), (0.0, 0.0, 0.0))
        sources = ("here",) * 20 + ("there",) * 20
        found.append(
            PerImageScores(part, 0.5, names, sources, names, columns, bins, configuration=name, seed=seed),
        )
    return found


def confirmed(
    configurations: tuple[Configuration, ...] = ALL, levels: dict[str, float] = LEVELS, **more: Any
) -> Confirmed:
    parts = ("validation", "test", "ETIS")
    found = [f for c in configurations for part in parts for f in findings(c.name, levels[c.name], part)]
    values: dict[str, Any] = dict(
        study="s", objective="dice", configurations=configurations, findings=tuple(found), budgets={"kd": (9, 9)},
        choose=Choose(), openings=(), missing=(),
    )  # fmt: skip
    return Confirmed(**(values | more))


@pytest.fixture(scope="module")
def found():
    return answer(confirmed())


def by_class(whole: Confirmed, gains: dict[str, float]) -> Confirmed:
    """The same with classes: `hd95_missed_as_diagonal` and Dice of each, better for the winners by so much."""
    found = []
    for each in whole.findings:
        dice = np.asarray(each.columns["dice"])
        better = {label: gain if each.configuration.startswith("kd-1") else 0.0 for label, gain in gains.items()}
        shares = {f"dice.{label}": tuple(dice + gain) for label, gain in better.items()}
        lengths = {f"hd95_missed_as_diagonal.{label}": tuple(100 * (1 - dice - gain)) for label, gain in better.items()}
        whole_length = {"hd95_missed_as_diagonal": tuple(100 * (1 - dice))}
        found.append(replace(each, columns={**each.columns, **shares, **lengths, **whole_length}))
    return replace(whole, findings=tuple(found))


def claim(part, name, on="test"):
    return next(c for c in part.claims if c.name == name and c.part == on)


def test_the_gain_is_over_a_control_of_no_more_parameters(found):
    """no-kd-1 is better than every KD student and larger than the best of them: comparing with it would be unfair."""
    gain = claim(found, "gain")
    assert (gain.minuend, gain.subtrahend, gain.verdict) == ("kd-1", "no-kd-2", "shown")
    assert gain.low < 0.1 < gain.high
    assert gain.p <= gain.p_holm
    assert (gain.images, gain.groups, gain.seeds) == (40, 40, 5)


def test_a_kd_term_without_effect_is_not_shown_and_a_harmful_one_is_worse(found):
    assert claim(found, "kd_term_effect").verdict == "not_shown"
    harmed = answer(confirmed(levels=LEVELS | {"kd-1-without": 0.88}))
    assert claim(harmed, "kd_term_effect").verdict == "worse"


def test_tuning_has_a_gain_of_its_own_and_unseen_sources_are_outside_of_the_corrected_family(found):
    tuning = claim(found, "tuning_gain")
    assert (tuning.minuend, tuning.subtrahend, tuning.verdict) == ("no-kd-2", "defaults", "worse")
    assert claim(found, "gain", "ETIS").p_holm is None


def test_a_claim_is_one_short_line_with_its_verdict_at_the_end(found):
    lower = answer(replace(by_class(confirmed(), {}), objective="hd95_missed_as_diagonal"))
    lines = [claim_line(each) for each in (*found.claims, *lower.claims) if each.part == "test"]
    assert max(map(len, (line for line in lines if "hd95" not in line))) <= 130
    assert all(re.search(r": (shown|not shown|worse|not estimable.*)$", line) for line in lines)
    gain, near = (claim_line(claim(found, name)) for name in ("gain", "not_below_teacher"))
    number = r"\+0\.\d{4}"
    title = r"^gain over the search without distillation \(kd-1 less no-kd-2\): "
    assert re.search(rf"{title}{number}, 95% \[{number}, {number}\], p [\d.e-]+: shown$", gain)
    assert near.startswith("not below the teacher by more than 0.")
    assert "(px of hd95_missed_as_diagonal, lower is better), 95% [-" in claim_line(claim(lower, "gain"))
    missing = claim(found, "gain").model_copy(update={"estimate": None, "reason": "no control"})
    assert claim_line(missing) == "gain over the search without distillation: not estimable: no control"


def test_winners_are_the_searches_own_whatever_the_confirmation_says():
    """kd-2 is far better on the fresh seeds: as one of several winners it has one more chance than the control."""
    assert claim(answer(confirmed(levels=LEVELS | {"kd-2": 0.99})), "gain").minuend == "kd-1"


def test_of_a_score_that_is_better_when_lower_a_reduction_is_the_gain():
    """The same numbers turned round: every verdict is what it was, and the signs are those of lengths."""
    whole = by_class(confirmed(), {})
    higher, lower = answer(whole), answer(replace(whole, objective="hd95_missed_as_diagonal"))
    family = ("gain", "kd_term_effect", "tuning_gain")
    assert [claim(lower, name).verdict for name in family] == [claim(higher, name).verdict for name in family]
    gain = claim(lower, "gain")
    assert gain.estimate == pytest.approx(-100 * claim(higher, "gain").estimate)
    assert (gain.low, gain.unit) == (
        pytest.approx(-100 * claim(higher, "gain").high),
        "hd95_missed_as_diagonal (px), mean over images",
    )
    assert re.search(r"on test: -\d.*, px of hd95_missed_as_diagonal, lower is better \[-.*\): shown$", gain.words)
    # How far below the teacher one may be stays a share: the margin is of the score that [confirm.choose] names.
    assert (lower.margin_metric, lower.chosen) == ("dice", higher.chosen)


def test_classes_are_a_second_family_corrected_among_themselves_and_tested_where_the_mean_is_shown(found):
    assert found.class_claims == ()
    assert "class_claims" not in found.model_dump()
    assert "label" not in found.model_dump()["claims"][0]
    part = answer(by_class(confirmed(), {"liver": 0.05, "spleen": -0.1}))
    # Of the three claims the gain alone is shown.
    assert [(c.name, c.label, c.unit.partition(",")[0]) for c in part.class_claims] == [
        ("gain", "liver", "dice.liver"),
        ("gain", "spleen", "dice.spleen"),
    ]
    assert [c.verdict for c in part.class_claims] == ["shown", "not_shown"]
    raw = [c.p for c in part.class_claims]
    assert [c.p_holm for c in part.class_claims] == pytest.approx(holm(raw))
    assert "on test, liver: +0.1" in part.class_claims[0].words
    assert "corrected over the classes" in part.class_claims[0].words
    # The first family is what it was without classes.
    assert [c.words for c in part.claims] == [c.words for c in found.claims]
    nothing = answer(by_class(confirmed(levels=LEVELS | {"kd-1": 0.75}), {"liver": 0.3, "spleen": 0.3}))
    assert (claim(nothing, "gain").verdict, nothing.class_claims) == ("not_shown", ())


def test_the_margin_is_of_the_metric_that_choose_names():
    whole = confirmed(objective="iou", choose=Choose(metric="dice"))
    near = [c for c in answer(whole).claims if c.name == "not_below_teacher"]
    assert {c.unit for c in near} == {"dice, mean over images"}
    assert claim(answer(whole), "gain").unit == "iou, mean over images"


def test_the_smallest_network_near_the_teacher_is_shipped(found):
    """kd-2 and no-kd-2 are smaller and too far below; no-kd-1 is larger."""
    assert found.chosen == "kd-1"
    verdicts = {c.minuend: c.verdict for c in found.claims if c.name == "not_below_teacher"}
    assert verdicts == {"kd-1": "shown", "no-kd-1": "shown", "kd-2": "worse", "no-kd-2": "worse"}
    assert answer(confirmed(choose=Choose(margin=0.2))).chosen == "kd-2"
    assert answer(confirmed(choose=Choose(margin=0.0), levels=LEVELS | {"no-kd-1": 0.8})).chosen is None


def test_what_is_missing_is_said_and_never_made_up():
    """Without a control and with one seed there is no claim, and the reason is there."""
    alone = answer(confirmed(ALL[:2]))
    assert {c.name: c.verdict for c in alone.claims if c.part == "test"} == dict.fromkeys(
        ("gain", "kd_term_effect", "tuning_gain"), "not estimable"
    )
    assert alone.chosen is None
    whole = confirmed()
    one = tuple(f for f in whole.findings if f.seed in (11, None))
    gain = claim(answer(replace(whole, findings=one)), "gain")
    assert (gain.verdict, gain.low, gain.estimate is None) == ("not estimable", None, False)
    assert "1 seed is fewer" in gain.reason
    unlike = tuple(replace(f, seed=f.seed + 10) if f.configuration == "no-kd-2" else f for f in whole.findings)
    assert claim(answer(replace(whole, findings=unlike)), "gain").reason == "no seed that both were trained with"


def test_tables_have_parts_sources_sizes_misses_and_calibration(found):
    rows = {(s.by, s.stratum): s for s in found.scores if (s.network, s.part) == ("kd-1", "test")}
    assert {by for by, _ in rows} == {"all", "source", "size"}
    whole = rows["all", "test"]
    assert (whole.polyps, whole.negatives, whole.false_positives) == (39, 1, 2.0)
    assert whole.missed == pytest.approx(1 / 39)
    assert (whole.hd95, whole.hd95_left_out) == (4.0, 1.0)
    assert whole.hd95_missed_as_diagonal == pytest.approx((38 * 4 + 50) / 40)
    assert whole.ece == pytest.approx(0.1)
    assert [s.images for s in rows.values() if s.by == "size"] == [13, 13, 13]
    assert [s.images for s in rows.values() if s.by == "source"] == [20, 20]
    small = next(s for s in rows.values() if s.by == "size" and s.stratum.startswith("large"))
    assert small.missed == pytest.approx(1 / 13)


def test_a_comparison_of_distances_says_what_it_is_of_and_counts_every_miss(found):
    """What both found is equal; kd-1 missed what no-kd-2 found. Older measurements have the first distance alone."""
    gain = next(d for d in found.distances if d.name == "gain")
    assert (gain.minuend, gain.subtrahend, gain.images, gain.compared, gain.hd95) == ("kd-1", "no-kd-2", 40, 39, 0.0)
    assert gain.hd95_missed_as_diagonal == 1.0
    assert gain.low <= 1.0 <= gain.high
    whole = confirmed()
    older = tuple(
        replace(f, columns={n: c for n, c in f.columns.items() if n != "hd95_missed_as_diagonal"})
        for f in whole.findings
    )
    before = answer(replace(whole, findings=older))
    gain = next(d for d in before.distances if d.name == "gain")
    assert (gain.hd95, gain.hd95_missed_as_diagonal) == (0.0, None)
    assert {s.hd95_missed_as_diagonal for s in before.scores} == {None}


def test_the_calibration_of_the_foreground_stands_beside_that_of_the_chosen_class(found):
    """Of measurements from before it was kept it is not known."""
    assert {r.ece_positive for r in found.reliability} == {None}
    whole = confirmed()
    known = tuple(replace(f, calibration_positive=((60.0, 6.0, 24.0), (40.0, 30.0, 12.0))) for f in whole.findings)
    part = answer(replace(whole, findings=known))
    one = next(r for r in part.reliability if (r.network, r.part) == ("kd-1", "test"))
    assert (one.ece_positive, one.ece) == (pytest.approx(0.36), pytest.approx(0.1))
    assert one.positive_bins[0] == pytest.approx((0.1, 0.4, 0.6))
    row = next(s for s in part.scores if (s.network, s.part, s.by) == ("kd-1", "test", "all"))
    assert (row.ece_positive, row.ece) == (one.ece_positive, one.ece)


def test_every_score_says_its_thresholds_and_how_they_were_chosen(found):
    """Measurements of earlier versions took the best threshold on validation."""
    assert "earlier version" in found.threshold_rule
    whole = confirmed()
    by_seed = dict(zip(SEEDS, (0.5, 0.5, 0.65, 0.5, 0.4), strict=True))
    ruled = tuple(replace(f, threshold=by_seed.get(f.seed, 0.5), threshold_rule="gain") for f in whole.findings)
    part = answer(replace(whole, findings=ruled))
    assert part.threshold_rule.startswith("0.5, or another one that gains on validation more than")
    network = next(n for n in part.networks if n.name == "kd-1")
    assert (network.searched_threshold, dict(network.thresholds)) == (0.5, by_seed)
    assert next(n for n in part.networks if n.name == "teacher").thresholds == ((None, 0.5),)
    at_best = answer(replace(whole, objective="dice_at_best_threshold", findings=ruled))
    assert {n.searched_threshold for n in at_best.networks} == {None}
    assert [claim_line(c) for c in at_best.claims] == [claim_line(c) for c in part.claims]  # Dice, at each seed's own
    gain = claim(part, "gain")
    assert gain.thresholds == (tuple(by_seed.values()),) * 2
    assert "at thresholds 0.4 to 0.65" in gain.words
    assert {s.thresholds for s in part.scores if s.network == "kd-1"} == {tuple(by_seed.values())}


def test_regions_may_have_a_threshold_each():
    whole = confirmed()
    own = {seed: (0.5, 0.3) if seed == SEEDS[0] else (0.5, 0.7) for seed in SEEDS}
    ruled = tuple(
        replace(f, threshold=0.5, region_thresholds=own.get(f.seed, ()), threshold_rule="gain-by-region")
        for f in whole.findings
    )
    part = answer(replace(whole, findings=ruled))
    assert part.threshold_rule.startswith("of each region by itself 0.5, or another one that gains on validation")
    network = next(n for n in part.networks if n.name == "kd-1")
    assert network.thresholds == tuple((seed, at) for seed in SEEDS for at in own[seed])
    assert (dict(part.thresholds)["kd-1"], dict(part.thresholds)["teacher"]) == (0.56, 0.5)
    assert "at thresholds 0.3 to 0.7" in claim(part, "gain").words
    assert _by_seed(network.thresholds).startswith(f"{SEEDS[0]}: 0.5 / 0.3, {SEEDS[1]}: 0.5 / 0.7")


def test_seeds_that_saw_other_images_are_refused():
    whole = confirmed()
    other = replace(whole.findings[0], seed=99, images=("x",) * IMAGES)
    with pytest.raises(ValueError, match="seed 99 was measured on other images"):
        answer(replace(whole, findings=(*whole.findings, other)))


def test_what_more_seeds_and_images_would_show_follows_from_the_noise_that_was_there(found):
    """Drawn with 0.002 by seed and 0.01 by seed and image each, and a difference has twice the variance."""
    needed = found.needed
    assert needed.claim == "gain"
    assert needed.both == pytest.approx(0.01 * 2**0.5, rel=0.2)
    assert needed.seed < 0.006
    assert [(row.seeds, row.groups) for row in needed.smallest] == [(5, 40), (10, 40), (5, 80), (10, 80)]
    here, seeds, images, both = (row.gain for row in needed.smallest)
    assert both < min(seeds, images) <= max(seeds, images) < here < 0.02
    assert f"show a true difference of {here:.3f} or more" in needed.words
    whole = confirmed()
    one = tuple(f for f in whole.findings if f.seed in (11, None))
    assert answer(replace(whole, findings=one)).needed is None
    blank = (math.nan,) * (IMAGES - 9)  # nine groups are too few for an interval, and for a noise
    thin = tuple(replace(f, columns={**f.columns, "dice": (*f.columns["dice"][:9], *blank)}) for f in whole.findings)
    assert answer(replace(whole, findings=thin)).needed is None


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (60, f"from {smallest_gain(60, 5, LONG):.3f} on where trainings are long"),
        (4, "confirm   no gain can be shown with 4 test images in 4 groups"),
    ],
)
def test_validate_says_beforehand_what_can_be_shown(images, said, tmp_path, capsys, repository):
    study = tmp_path / "s.toml"
    text = (repository / "studies" / "demo.toml").read_text()
    assert "test       = 32" in text
    text = text.replace("test       = 32", f"test       = {images}")
    study.write_text(text.replace(".demo/teacher", f"{tmp_path}/none"))
    main(["validate", str(study), "--no-timing", "--cache", str(tmp_path / "cache")])
    out = capsys.readouterr().out
    assert said in out
    # One or two winners, for the other arm up to one more, the best winner without its teacher, and the defaults.
    spec = load(study)
    winners = min(spec.confirm.top, spec.arms[0].trials)
    assert f"trains at most {5 * (2 * winners + 1 + 2)} networks, " in out


def test_validate_refuses_an_unseen_source_that_is_not_there(tmp_path, capsys, repository):
    study = tmp_path / "s.toml"
    study.write_text((repository / "studies" / "demo.toml").read_text().replace(".demo/teacher", f"{tmp_path}/none"))
    flags = ["--no-timing", "--cache", str(tmp_path / "cache"), "--set", 'confirm.unseen=["NoSuch"]']
    assert main(["validate", str(study), *flags]) == 2
    assert "confirm.unseen = 'NoSuch': blobs has no other sources; remove it" in capsys.readouterr().out
