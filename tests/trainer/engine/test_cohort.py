"""A run gives the same numbers alone, among others, resumed and replayed; whoever else is there."""

from pathlib import Path

import pytest
import torch

from trainer.checkpoint import load
from trainer.data import open_data
from trainer.data.classes import channels_of, classes_of
from trainer.data.streams.batches import BatchImages
from trainer.distributed.ranks import Ranks
from trainer.dry_run import check
from trainer.engine.cohort import Cohort
from trainer.engine.fit import fit
from trainer.reports import Resume, Stopped

DATA = {"name": "blobs", "size": 32, "train": 16, "validation": 6}
STEPS = 4


def test_a_member_among_four_equals_the_same_run_alone_bit_for_bit(cohort, runs, solo, train, state, same):
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    told = train(cohort, 3)
    for key, (reports, final) in enumerate(solo):
        assert told[key] == reports
        assert same(state(cohort, key), final)
    assert len({tuple(reports[0].losses.values()) for reports in told.values()}) == 4


def test_one_teacher_pass_serves_all_who_listen_and_none_is_made_for_nobody(cohort, runs, make):
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    assert [report.passes for report in cohort.epoch().values()] == [1 / 4] * 4
    assert cohort.counters.teacher_forwards == cohort.counters.batches == STEPS
    assert cohort.counters.student_steps == 4 * STEPS
    assert cohort.counters.teacher_taps == 2 * STEPS
    cohort.dismiss(1)
    cohort.epoch()
    assert cohort.counters.teacher_forwards == 2 * STEPS
    assert cohort.counters.teacher_taps == 2 * STEPS
    for key in (0, 2):
        cohort.dismiss(key)
    cohort.admit(4, make())
    cohort.epoch()
    assert cohort.counters.teacher_forwards == 2 * STEPS
    assert cohort.counters.batches == 3 * STEPS
    assert cohort.counters.decoded == DATA["train"] + DATA["validation"]


def test_taps_that_no_loss_reads_are_let_go(cohort, runs):
    """Of teacher and student: neither keeps a map alive, nor brings it to float32."""
    for key in (0, 1):
        cohort.admit(key, runs[key])
    assert [sorted(cohort._members[key].trained.teacher_taps) for key in (0, 1)] == [[], ["enc2", "mid"]]
    images = BatchImages(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    assert set(cohort._resources.teacher_output(runs[1], 0, (0, 1), images, frozenset({"mid"})).taps) == {"mid"}
    heard = []
    loss = cohort._members[1].trained.losses["at"]
    loss.register_forward_pre_hook(lambda _, given: heard.append([set(output.taps) for output in given[:2]]))
    cohort.epoch()
    assert heard == [[{"enc2", "mid"}, {"enc2", "mid"}]] * STEPS


def test_distinct_teachers_are_asked_once_each(cohort, teacher, make):
    run = make(teacher=teacher, method="kl", losses={"ce": {}, "kl": {}})
    cohort.admit(0, run)
    cohort.admit(1, run.model_copy(update={"precision": "bf16"}))
    cohort.admit(2, run.model_copy(update={"precision": "bf16", "epochs": 2}))
    cohort.epoch()
    assert cohort.counters.teacher_forwards == 2 * STEPS


def test_data_and_teacher_are_brought_into_memory_once_for_many_trials(cohort, teacher, make):
    run = make(epochs=1, teacher=teacher, method="kl", losses={"ce": {}, "kl": {}})
    for key in range(3):
        cohort.admit(key, run)
        assert cohort.epoch()[key].final
        cohort.dismiss(key)
    assert cohort.counters.opened == 2


def test_a_resumed_run_equals_one_that_was_never_interrupted(cohort, runs, solo, tmp_path, train, state, same):
    """Whatever its losses, optimizer, schedule, average and precision, and beside a neighbour that begins later."""
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    train(cohort, 1)
    second = Cohort(Ranks("cpu"), slots=5, cache=tmp_path)
    for key, run in enumerate(runs):
        saved = cohort.snapshot(key)(tmp_path / f"epoch-{key}.pt")
        second.admit(key, run, Resume(saved.path, cohort.replay(key)))
    second.admit(6, runs[3])
    told = train(second, 2)
    for key, (whole, final) in enumerate(solo):
        assert told[key] == whole[1:]
        assert same(state(second, key), final)
        assert second.replay(key) == ((1, 0),)
    assert second.replay(6) == ((1, 1),)


def test_a_run_that_jumps_in_the_stream_is_repeated_from_its_replay(cohort, runs, tmp_path, make, bare, train):
    run, neighbour = runs[0], make(epochs=9)
    cohort.admit(1, neighbour)
    train(cohort, 2)
    cohort.admit(0, run)
    first = train(cohort, 1)[0]
    saved = cohort.snapshot(0)(tmp_path / "one.pt")
    cohort.dismiss(0)
    joins = cohort_replay = ((1, 2),)
    train(cohort, 2)
    cohort.admit(0, run, Resume(saved.path, joins))
    rest = train(cohort, 2)[0]
    assert cohort.replay(0) == ((1, 2), (2, 5))
    assert [report.stream_epoch for report in first + rest] == [2, 5, 6]
    again = list(fit(run, cache=tmp_path, ranks=Ranks("cpu"), replay=cohort.replay(0)))
    assert [bare(report) for report in again] == first + rest
    other = [bare(report) for report in fit(run, cache=tmp_path, ranks=Ranks("cpu"), replay=cohort_replay)]
    assert other[:1] == first
    assert other[1:] != rest


def test_what_was_copied_is_written_as_it_was_while_training_goes_on(cohort, runs, tmp_path, train, state, same):
    cohort.admit(0, runs[0])
    train(cohort, 1)
    before = state(cohort, 0)
    write = cohort.snapshot(0)
    train(cohort, 1)
    assert not same(state(cohort, 0), before)
    saved = load(write(tmp_path / "first.pt").path)
    assert same({key: value for key, value in saved.items() if key != "replay"}, before)
    # The next copy is made into the same memory.
    again = load(cohort.snapshot(0)(tmp_path / "second.pt").path)
    assert same({key: value for key, value in again.items() if key != "replay"}, state(cohort, 0))


def test_a_restarted_cohort_goes_on_like_the_uninterrupted_one(tmp_path, make, train):
    early, late = make(epochs=5), make(epochs=5, student={"name": "unet", "width": 8})

    whole = Cohort(Ranks("cpu"), slots=3, cache=tmp_path)
    whole.admit(0, early)
    train(whole, 2)
    whole.admit(1, late)
    train(whole, 1)
    saved = {key: (whole.snapshot(key)(tmp_path / f"{key}.pt"), whole.replay(key)) for key in (0, 1)}
    restarted = Cohort(Ranks("cpu"), slots=3, cache=tmp_path)
    for key, run in ((1, late), (0, early)):
        restarted.admit(key, run, Resume(saved[key][0].path, saved[key][1]))
    for cohort in (whole, restarted):
        cohort.admit(2, early)
    assert train(whole, 2) == train(restarted, 2)
    assert [whole.replay(key) for key in range(3)] == [((1, 0),), ((1, 2),), ((1, 3),)]
    assert all(whole.replay(key) == restarted.replay(key) for key in range(3))


def test_a_stream_without_members_begins_anew(cohort, make):
    cohort.admit(0, make())
    cohort.epoch()
    cohort.dismiss(0)
    cohort.admit(1, make())
    assert cohort.epoch()[1].stream_epoch == 0


def test_streams_of_other_seeds_run_in_one_cohort(cohort, tmp_path, make, bare, alone):
    cohort.admit(0, make())
    cohort.epoch()
    cohort.admit(1, make(seed=9))
    told = cohort.epoch()
    assert (told[0].stream_epoch, told[1].stream_epoch) == (1, 0)
    assert bare(told[1]) == alone(make(seed=9), tmp_path, 1)[0][0]


def test_a_finished_member_waits_to_be_dismissed_without_being_trained(cohort, make):
    cohort.admit(0, make(epochs=1))
    assert cohort.epoch()[0].final
    before = cohort.counters.student_steps
    assert cohort.epoch() == {}
    assert cohort.counters.student_steps == before


def test_slots_and_keys_are_guarded(cohort, make):
    for key in range(4):
        cohort.admit(key, make())
    with pytest.raises(ValueError, match="no free slot"):
        cohort.admit(9, make())
    cohort.dismiss(0)
    with pytest.raises(ValueError, match="already in the cohort"):
        cohort.admit(1, make())
    with pytest.raises(ValueError, match="own epoch 1"):
        cohort.admit(9, make(), follow=((2, 0),))
    with pytest.raises(ValueError, match="nearest: dice"):
        Cohort(Ranks("cpu"), slots=1, cache=Path(), monitor="dise")


def test_epochs_are_scored_where_that_is_due_and_seconds_have_every_part(cohort, make):
    cohort.admit(0, make(epochs=5, validate={"from": 2, "every": 2}))
    reports = [cohort.epoch()[0] for _ in range(5)]
    assert [report.epoch for report in reports if report.scores] == [2, 4, 5]
    for report in reports:
        assert set(report.seconds) == {"data", "teacher", "student", "validation", "other"}
        assert report.seconds["student"] > 0
        assert report.seconds["teacher"] == 0


def test_a_wish_to_stop_ends_the_epoch_at_a_step(tmp_path, make):
    ranks = Ranks("cpu")
    cohort = Cohort(ranks, slots=1, cache=tmp_path)
    cohort.admit(0, make())
    cohort.epoch()
    ranks.ask_to_stop()
    with pytest.raises(Stopped):
        cohort.epoch()
    assert cohort.counters.student_steps < 2 * STEPS


def test_the_best_epoch_is_exported_with_what_a_reader_must_know(cohort, tmp_path, make, train):
    run = make(optim={"ema": True})
    cohort.admit(0, run)
    with pytest.raises(ValueError, match="no epoch was scored"):
        cohort.export(0, tmp_path / "early.safetensors")
    reports = train(cohort, 3)[0]
    cohort.export(0, tmp_path / "best.safetensors")
    from trainer import checkpoint
    from trainer.evaluation.metrics import validate

    found = checkpoint.weights(tmp_path / "best.safetensors")
    best = max(reports, key=lambda report: report.scores["dice"])
    assert found.word("scores") == dict(best.scores)
    assert found.word("epoch") == best.epoch
    assert len(found.word("train_images")) == DATA["train"]
    import models

    network = models.build(run.student, in_channels=found.word("channels"), classes=found.word("classes"))
    checkpoint.fill(network, found.tensors, "best")
    data = open_data(run.data, cache=tmp_path)
    assert found.word("data") == data.content_hash
    scores = validate(network, data, "validation", ranks=Ranks("cpu"), precision="fp32")
    assert scores.means == dict(best.scores)


def test_a_checkpoint_gives_the_weights_to_start_from(cohort, teacher, make, state, same):
    run = make(student={"name": "unet", "width": 6, "checkpoint": teacher["checkpoint"]})
    cohort.admit(0, run)
    cohort.admit(1, make(student={"name": "unet", "width": 6}))
    from trainer.checkpoint import weights

    given = weights(Path(teacher["checkpoint"])).tensors
    assert same(state(cohort, 0)["network"], dict(given))
    assert not same(state(cohort, 1)["network"], dict(given))


def test_a_term_without_a_single_unit_is_zero_and_moves_nothing(cohort, tmp_path, make):
    cohort.admit(0, make())
    student = cohort._members[0].trained
    before = student.flat.weights.clone()
    student.begin_epoch()
    target = torch.full((2, 32, 32), 255)
    sums = student.forward(torch.zeros(2, 3, 32, 32), target, None)
    assert sums.tolist() == [0.0, 0.0, 0.0]
    student.backward(sums)
    assert student.update().get()[0] == 0
    assert student.end_epoch() == {"ce": 0.0}
    assert torch.equal(student.flat.weights, before)


def test_a_rank_without_an_image_sends_zeros(cohort, make):
    cohort.admit(0, make())
    student = cohort._members[0].trained
    student.begin_epoch()
    none = torch.zeros(0, 3, 32, 32), torch.zeros(0, 32, 32, dtype=torch.long)
    assert student.forward(*none, None).sum() == 0
    assert student.backward(torch.tensor([9.0, 0.0, 0.0], dtype=torch.float64)).abs().sum() == 0


def test_fit_writes_after_each_epoch_and_resumes_from_it(tmp_path, make, bare):
    run = make()
    whole = [bare(report) for report in fit(run, cache=tmp_path, ranks=Ranks("cpu"))]
    started = fit(run, cache=tmp_path, ranks=Ranks("cpu"), save=tmp_path / "state.pt")
    next(started)
    started.close()
    rest = fit(run, cache=tmp_path, ranks=Ranks("cpu"), resume=Resume(tmp_path / "state.pt"))
    assert [bare(report) for report in rest] == whole[1:]


class Notes(torch.nn.Module):
    """A loss that notes when it was told of an epoch and when it was computed."""

    needs_teacher = False

    def __init__(self, inner) -> None:
        super().__init__()
        self.inner, self.calls = inner, []

    def begin_epoch(self, epoch, epochs):
        self.calls.append((epoch, epochs))

    def forward(self, *arguments):
        self.calls.append("step")
        return self.inner(*arguments)


def test_a_loss_learns_of_each_epoch_before_its_first_step_and_so_after_a_resume(cohort, tmp_path, make, train):
    run = make(epochs=3)

    def noted(cohort, resume=None):
        cohort.admit(0, run, resume)
        student = cohort._members[0].trained
        student.losses["ce"] = notes = Notes(student.losses["ce"])
        train(cohort, 2)
        return [call for call, before in zip(notes.calls, [None, *notes.calls], strict=False) if call != before]

    assert noted(cohort) == [(1, 3), "step", (2, 3), "step"]
    saved = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    saved.admit(0, run)
    train(saved, 2)
    checkpoint = saved.snapshot(0)(tmp_path / "two.pt").path
    assert noted(Cohort(Ranks("cpu"), slots=1, cache=tmp_path), Resume(checkpoint)) == [(3, 3), "step"]


def test_a_run_is_checked_without_reading_a_file(teacher, make):
    lost = teacher | {"checkpoint": "/none"}
    run = make(teacher=lost, method="kl", losses={"ce": {}, "kl": {}, "at": {"taps": ["mid"]}})
    facts = check(run)
    assert facts.live_terms == ("ce", "kl")
    assert facts.teacher_params is not None
    assert facts.params < facts.teacher_params
    assert facts.flops < (facts.teacher_flops or 0)
    plain = check(make())
    assert (plain.params, plain.teacher_params) == (facts.params, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": DATA | {"size": 40}}, r"data.size = 40: the student unet takes multiples of 16; try 32"),
        ({"data": DATA | {"augment": "standart"}}, r"data.augment = 'standart'.*standard"),
        ({"data": DATA | {"train": 3}}, r"batch_size = 4: more than the 3 training images"),
        (
            {"method": "at", "losses": {"ce": {}, "at": {"taps": ["enc9"]}}, "teacher": {"name": "unet"}},
            r"losses.at.taps: the student has no tap 'enc9'",
        ),
    ],
)
def test_what_cannot_work_is_one_line_that_begins_with_the_field(change, words, make):
    with pytest.raises(ValueError, match=words) as error:
        check(make(**change))
    assert "\n" not in str(error.value)


def test_the_shapes_that_are_known_without_opening_data_are_right(tmp_path, make):
    config = make().data
    data = open_data(config, cache=tmp_path)
    assert (data.channels, data.classes) == (channels_of(config), len(classes_of(config)))


def test_maps_that_are_computed_again_change_no_number_alone_or_among_others(
    cohort, runs, solo, train, state, same, tmp_path
):
    """Four runs, of which one reads taps, one is in bf16, and one averages its weights."""
    lean = [run.model_copy(update={"recompute": "normalisation"}) for run in runs]
    for key, run in enumerate(lean):
        cohort.admit(key, run)
    told = train(cohort, 3)
    for key, (reports, final) in enumerate(solo):
        assert told[key] == reports
        ours = state(cohort, key)
        assert ours["run"] != final["run"]
        assert same({**ours, "run": final["run"]}, final)
