"""Operations of a search: forward passes times images, epochs and trainings, worked out by hand."""

import pytest

from search.planning.network_costs import costs
from search.planning.training_work import describe_work, format_operations, total_work, training_work
from search.spec.load import load

TEACHER = """
[run.teacher]
name = "unet"
width = 8
checkpoint = "t.safetensors"
[teach]
epochs = 7
[[arms]]
name = "no-kd"
set = { method = "none" }
trials = 2
"""
EXAMPLES = 10


@pytest.fixture
def spec(small_study, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(small_study(more=TEACHER, method="kl", losses={"ce": {}, "kl": {}}))
    return load(path)


def test_a_step_is_three_passes_and_only_arms_with_a_teacher_wait_for_it(spec):
    built = costs(spec)
    work = training_work(spec, built, EXAMPLES, trainings=6)
    student = built[0].facts.flops
    teacher = max(cost.facts.teacher_flops or 0 for cost in built)
    assert teacher > student
    # four trials with a teacher and two without, of four epochs
    assert work.students == (3 * 6 * 4 * EXAMPLES * student,) * 2
    assert work.teacher == 4 * 4 * EXAMPLES * teacher
    assert work.teaching == 3 * 7 * EXAMPLES * teacher
    assert work.confirmation == 6 * 4 * EXAMPLES * (3 * student + teacher)
    first, second = describe_work(work)
    assert first.startswith(f"students {format_operations(work.students[0])}; teacher's passes ")
    assert f"; teaching {format_operations(work.teaching)}; confirmation at most " in first
    assert "none pruned" in second


def test_each_choice_of_a_front_counts_as_often_as_the_others(small_study, tmp_path):
    path = tmp_path / "front.toml"
    text = small_study().replace("[space]\n", '[space]\n"student.width" = { choices = [2, 8] }\n')
    path.write_text(text + '[front]\nalong = "student.width"\n')
    spec = load(path)
    built = costs(spec)
    narrow, wide = sorted(cost.facts.flops for cost in built)
    work = training_work(spec, built, EXAMPLES, trainings=1)
    assert work.students == (pytest.approx(3 * 4 * 4 * EXAMPLES * (narrow + wide) / 2),) * 2
    assert work.confirmation == 4 * EXAMPLES * 3 * wide
    assert (work.teacher, work.teaching) == (0.0, 0.0)
    path.write_text(text)
    without_front = load(path)
    free = training_work(without_front, costs(without_front), EXAMPLES, trainings=1)
    assert free.students == (3 * 4 * 4 * EXAMPLES * narrow, 3 * 4 * 4 * EXAMPLES * wide)


def test_a_sum_counts_what_is_taught_once(spec):
    work = training_work(spec, costs(spec), EXAMPLES, trainings=6)
    both = total_work([work, work], teaching=work.teaching)
    assert both.students == (2 * work.students[0], 2 * work.students[1])
    assert (both.teacher, both.confirmation) == (2 * work.teacher, 2 * work.confirmation)
    assert both.teaching == work.teaching


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0.0, "0 GFLOP"), (2.5e8, "0.25 GFLOP"), (1.234e13, "12.3 TFLOP"), (5.41e17, "541 PFLOP"), (3e19, "30 EFLOP")],
)
def test_operations_are_shown_with_three_digits(count, expected):
    assert format_operations(count) == expected
