"""The words of a report are honest: what is shown, what is not, and what is missing to tell."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from search.answer.summary import ConfirmedResult, NetworkScore, score_text
from search.report.content.build import commands, side
from search.report.content.document import Report
from search.report.content.text import confirmed_text, limits, next_step, unconfirmed
from search.report.page import page

Make = Callable[..., Any]
CONTROLS = ("no-kd-1", "no-kd-2")


def test_a_confirmed_gain_is_shown_with_its_interval(gained: Report) -> None:
    study = gained.studies[0]
    assert study.verdict == "shown"
    assert study.answer[0].startswith("Ship kd-2: unet, width 8")
    assert ", on 80 images with 5 seeds, " in study.answer[0]
    assert "Distillation was a reason" in study.answer[1]
    assert re.search(r"the gain is \+0\.0\d+ \[\+0\.\d+, \+0\.\d+\] \(kd-1 less no-kd-1\), shown", study.answer[1])
    assert study.answer[2].startswith(
        "Shown: gain over the search without distillation, effect of the distillation term, gain of tuning. The "
    )
    assert "5 seeds" in study.answer[2]
    assert "ETIS-LaribPolypDB" in study.answer[3]
    assert "unconfirmed" not in " ".join(study.answer).lower()


def test_scores_of_volumes_are_said_to_be_of_cases(
    made: Report, synthetic: Make, confirmed_study: Make, read_page: Make
) -> None:
    found = synthetic(0.02)
    found = replace(found, findings=tuple(replace(each, scored="case") for each in found.findings))
    of_cases = confirmed_study(made, found)
    study = of_cases.studies[0]
    assert ", on 80 cases with 5 seeds, " in study.answer[0]
    assert "groups of 80 cases and 5 seeds" in study.answer[2]
    assert study.confirmed is not None
    assert study.confirmed.claims[0].unit == "dice, mean over cases"
    assert {"test cases", "Confirmed: fresh seeds, test cases"} & set(read_page(page(of_cases)).text)
    of_validation = study.search.model_copy(update={"scored": "case"})
    texts = [*limits(of_validation, None, begun=0), *map(str, unconfirmed(of_validation))]
    assert "validation cases" in " ".join(texts)
    assert "images" not in " ".join([*texts, *study.answer])


def test_trials_that_the_threshold_cannot_tell_apart_are_counted(made: Report) -> None:
    search = made.studies[0].search
    assert not [text for text in limits(search, None, begun=0) if "have one score" in text]
    some = search.model_copy(update={"tie": (2, 0.0, "dice_at_best_threshold")})
    (sentence,) = [text for text in limits(some, None, begun=0) if "have one score" in text]
    assert sentence.startswith(
        f"2 of {len(search.dots)} trials that were trained to their end have one score, 0.0000: at "
    )
    assert sentence.endswith('; a study with maximize = "dice_at_best_threshold" can.')
    at_best = some.model_copy(update={"metric": "dice_at_best_threshold", "threshold": None})
    words = " ".join([*limits(at_best, None, begun=0), *map(str, unconfirmed(at_best))])
    assert "have one score" not in words
    assert "None" not in words
    assert "each network is scored at the threshold of the foreground's probability that is best for it" in words


def test_no_gain_is_not_shown_and_harm_is_named(made: Report, synthetic: Make, confirmed_study: Make) -> None:
    without = confirmed_study(made, synthetic(0.0)).studies[0]
    assert without.verdict == "not_shown"
    assert without.answer[2].startswith("Shown: gain of tuning; not shown: gain over the search without distillation, ")
    harmed = confirmed_study(made, synthetic(-0.03)).studies[0]
    assert harmed.verdict == "worse"
    assert "did harm" in harmed.answer[1]


def test_a_control_that_the_search_scored_higher_is_named(made: Report, synthetic: Make, confirmed_study: Make) -> None:
    """Where nothing is shown to be as good as the teacher, the winner is not passed for the best of all."""
    study = confirmed_study(made, synthetic(0.0)).studies[0]
    part = study.confirmed
    assert part is not None

    def answered(control: float) -> str:
        searched = {"kd-1": 0.7, "no-kd-1": control}
        networks = [
            each.model_copy(update={"searched": searched.get(each.name), "chosen": False}) for each in part.networks
        ]
        return confirmed_text(study.search, part.model_copy(update={"networks": tuple(networks), "chosen": None}))[1][0]

    better = answered(0.72)
    assert "what the search found best in arm kd is kd-1" in better
    assert better.endswith("In the search the control no-kd-1 was better: 0.7200 on validation, kd-1 0.7000.")
    assert "In the search" not in answered(0.7)
    assert "what the search found best is kd-1" in answered(0.68)


def test_a_search_without_distillation_is_not_said_to_have_asked_for_it(
    made: Report, read_page: Make, alone: Make
) -> None:
    study = alone(made, taught=False).studies[0]
    assert study.distillation == "not asked"
    assert study.answer[1] == "Whether distillation helps was not asked: the main search trains without a teacher."
    assert "trials each" not in study.answer[2]
    assert side(study).without_kd is not None
    assert side(study).with_kd is None
    words = " ".join(read_page(page(alone(made, taught=False))).text)
    assert "with and without knowledge distillation" not in words
    assert "is it distillation" not in words
    assert "Each arm is a search of its own" not in words


def test_a_confirmed_search_without_distillation_speaks_of_no_teacher(
    made: Report, synthetic: Make, changed: Make, alone: Make, confirmed_study: Make
) -> None:
    found = changed(synthetic(0.02), without=(*CONTROLS, "kd-1-without", "teacher"))
    runs = [replace(each, run={**each.run, "method": "none"}) for each in found.configurations]
    study = confirmed_study(alone(made, taught=False), replace(found, configurations=tuple(runs))).studies[0]
    assert study.confirmed is not None
    assert study.answer[0].startswith("No teacher is there to be compared with; what the search found best is kd-1:")
    assert study.answer[1].startswith("Whether distillation helps was not asked: the main search trains without")
    assert re.search(r"; kd-1 less defaults is \+0\.\d+ \[.+\], shown\.$", study.answer[1]), "what tuning gained"
    assert "5 seeds" in study.answer[2]
    assert {c.reason for c in study.confirmed.claims if c.name in ("gain", "kd_term_effect")} == {
        "the winner was trained without distillation"
    }
    assert side(study).with_kd is None
    assert side(study).without_kd == next(n.test for n in study.confirmed.networks if n.name == "kd-1")


def test_one_arm_with_distillation_says_what_is_missing_to_tell(
    made: Report, synthetic: Make, changed: Make, alone: Make, confirmed_study: Make
) -> None:
    study = alone(made, taught=True).studies[0]
    assert study.answer[1].startswith("Whether distillation was the reason is not estimable: no arm searched without")
    assert 'set = { method = "none" }' in study.answer[1]
    found = changed(synthetic(0.02), without=CONTROLS)
    study = confirmed_study(alone(made, taught=True), found).studies[0]
    assert study.verdict == "not_shown", "the same network without its KD term alone does not tell"
    assert "the gain is not estimable, no search without KD" in study.answer[1]
    assert "(kd-1 less kd-1-without), shown" in study.answer[1]
    assert "over 40 groups of 80 images and 5 seeds, paired by image and seed" in study.answer[2]
    assert side(study).with_kd is not None


def test_few_seeds_and_few_groups_are_said(made: Report, synthetic: Make, changed: Make, confirmed_study: Make) -> None:
    few = confirmed_study(made, changed(synthetic(0.02), seeds=3)).studies[0]
    assert "fewer than 5 seeds make every interval unsure" in few.answer[2]
    assert "unsure" not in confirmed_study(made, synthetic(0.02)).studies[0].answer[2]
    groups = confirmed_study(made, changed(synthetic(0.02), images=16)).studies[0]
    assert groups.verdict == "not estimable"
    assert "(kd-1 less no-kd-1), not estimable, since 8 groups are fewer than 10" in groups.answer[1]
    assert commands("polyps", groups.confirmed)[2] == "python -m search confirm polyps"
    assert commands("polyps", groups.confirmed)[2] == "python -m search confirm polyps"
    assert commands("polyps", groups.confirmed, powerless=True)[2] == "python -m search confirm polyps --anyway"
    assert groups.answer[2].startswith("Nobody can say: an interval is not estimable of 8 groups of 16 images")
    assert "[" not in " ".join(groups.answer[:3])


def test_images_that_count_as_independent_are_said(made: Report, synthetic: Make, confirmed_study: Make) -> None:
    """Of a source of which no patient joins two images; others are not spoken of."""
    found = synthetic(0.02)
    assert "taken as independent" not in confirmed_study(made, found).studies[0].answer[2]
    findings = tuple(
        replace(each, groups=each.images) if each.part == "ETIS-LaribPolypDB" else each for each in found.findings
    )
    said = confirmed_study(made, replace(found, findings=findings)).studies[0].answer[2]
    assert "; every image of ETIS-LaribPolypDB is a group of its own and taken as independent" in said


def test_an_unconfirmed_search_says_so_first_and_shows_no_gain(made: Report) -> None:
    study = made.studies[0]
    assert study.answer[0].startswith("Unconfirmed")
    assert study.verdict == "not_shown"
    assert "not shown" in study.answer[1]
    assert re.search(r"\(at threshold 0\.5, on \d+ images\)\.$", study.answer[0])
    assert study.following.endswith("python -m search confirm polyps")
    assert "Simulated" in study.headline


def test_a_confirmed_score_is_told_with_its_interval_and_seeds() -> None:
    score = NetworkScore(score=0.85, low=0.84, high=0.86, seeds=2, thresholds=[0.65, 0.5])
    result = ConfirmedResult(
        metric="dice", network="a", what=None, ship=True, distillation="shown", networks={"a": score}, missing=()
    )
    assert score_text(result, "a") == ("test dice 0.8500 [0.8400, 0.8600], mean over 2 seeds at thresholds 0.5 to 0.65")
    length = replace(result, metric="hd95_missed_as_diagonal", networks={"a": NetworkScore(3.5, None, None, 1, ())})
    assert score_text(length, "a") == "test hd95_missed_as_diagonal 3.5000 px, one seed"


def test_what_comes_next_depends_on_what_a_confirmation_could_show(made: Report, gained: Report) -> None:
    search, part = made.studies[0].search, gained.studies[0].confirmed
    assert gained.studies[0].following == ("Take it home: python -m search export polyps --confirmed --package package")
    assert part is not None
    missing = part.model_copy(update={"missing": ("kd-1, seed 12: failed",)})
    assert next_step("polyps", search, missing, None).endswith("python -m search confirm polyps")
    few = next_step("polyps", search, None, "4 test images in 4 groups: at least 10 groups are needed for an interval")
    assert "A confirmation could show nothing: 4 test images in 4 groups" in few
    assert "search confirm" not in few
    assert few.endswith("python -m search export polyps --top 1 -o best.json")
    running = search.model_copy(update={"state": "running"})
    assert next_step("polyps", running, None, None).endswith("python -m search work polyps")
