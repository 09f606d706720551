"""A run gives the same numbers alone, among others, resumed and replayed; failures end the member they belong to."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from losses.term import Term
from trainer.checkpoint import load
from trainer.config import RunConfig
from trainer.data import DataError, open_data
from trainer.data.stream import BatchImages
from trainer.distributed.ranks import Ranks
from trainer.dry_run import CHANNELS, CLASSES, check
from trainer.engine.cohort import Cohort
from trainer.engine.fit import fit
from trainer.errors import CheckpointError
from trainer.reports import EpochReport, Failure, FailureKind, Resume, RunFailed, Stopped

DATA = {"name": "blobs", "size": 32, "train": 16, "validation": 6}
STEPS = 4
PLAIN = {"epochs": 3, "batch_size": 4, "data": DATA, "student": {"name": "unet", "width": 4}, "losses": {"ce": {}}}


def make(**changes) -> RunConfig:
    return RunConfig.model_validate({**PLAIN, **changes})


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> dict[str, object]:
    """A small network trained for one epoch, as a run's teacher table."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    run = make(epochs=1, student={"name": "unet", "width": 6})
    for _ in fit(run, cache=path.parent, export=path, ranks=Ranks("cpu")):
        pass
    return {"name": "unet", "width": 6, "checkpoint": str(path)}


@pytest.fixture(scope="module")
def runs(teacher) -> list[RunConfig]:
    """Four members of one stream that differ in everything else; the first three listen to the teacher."""
    kd = {"teacher": teacher, "method": "kl"}
    return [
        make(
            **kd,
            losses={"ce": {}, "kl": {"temperature": 2.0}, "selfreg": {"weight": 0.5}},
            optim={"name": "adamw", "lr": 3e-3, "weight_decay": 0.01, "ema": True},
        ),
        make(
            **kd | {"method": "kl+at"},
            student={"name": "resunet", "width": 4},
            losses={"dice": {}, "kl": {}, "at": {"taps": ["enc2", "mid"]}},
            optim={"name": "sgd", "lr": 0.05, "clip": 1.0, "schedule": {"name": "poly"}},
        ),
        make(
            **kd,
            student={"name": "unet", "width": 8},
            losses={"ce": {}, "kl": {}},
            optim={"name": "adam", "schedule": {"name": "plateau", "patience": 0}},
        ),
        make(
            epochs=2,
            precision="bf16",
            losses={"bce-dice": {}, "selfreg": {}},
            optim={"schedule": {"name": "cosine", "warmup_epochs": 1}},
        ),
    ]


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    return Cohort(Ranks("cpu"), slots=4, cache=tmp_path)


def exploding() -> RunConfig:
    """A run whose numbers stop being finite in a few steps, by a learning rate that no study file takes."""
    run = make(optim={"name": "sgd", "schedule": {"name": "constant"}})
    return run.model_copy(update={"optim": run.optim.model_copy(update={"lr": 1e30})})


def bare(report):
    """A report without its wall time."""
    return dataclasses.replace(report, seconds={}) if isinstance(report, EpochReport) else report


def train(cohort: Cohort, epochs: int) -> dict[int, list[EpochReport | Failure]]:
    told: dict[int, list[EpochReport | Failure]] = {}
    for _ in range(epochs):
        for key, report in cohort.epoch().items():
            told.setdefault(key, []).append(bare(report))
    return told


def state(cohort: Cohort, key: int = 0):
    return cohort._members[key].trained.state()


def same(first, second) -> bool:
    """Equal bit for bit, through dicts and lists."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return bool(first == second)


def alone(run: RunConfig, cache: Path, epochs: int | None = None):
    """Reports and state of a run in a cohort of its own."""
    cohort = Cohort(Ranks("cpu"), slots=1, cache=cache)
    cohort.admit(0, run)
    return train(cohort, epochs or run.epochs)[0], state(cohort)


@pytest.fixture(scope="module")
def solo(runs, tmp_path_factory):
    """Reports and state of each of the four runs in a cohort of its own, trained once for all tests."""
    return [alone(run, tmp_path_factory.mktemp("solo")) for run in runs]


class Breaks(torch.nn.Module):
    """A loss that works for some calls and then raises, or returns what breaks in backward."""

    needs_teacher = False

    def __init__(self, inner, after: int, error: Exception, backward: bool = False) -> None:
        super().__init__()
        self.inner, self.left, self.error, self.backward = inner, after, error, backward

    def begin_epoch(self, epoch, epochs):
        self.inner.begin_epoch(epoch, epochs)

    def forward(self, student, teacher, target):
        self.left -= 1
        term = self.inner(student, teacher, target)
        if self.left >= 0:
            return term
        if not self.backward:
            raise self.error
        total = term.total * 1.0
        total.register_hook(self.burst)
        return Term(total, term.count)

    def burst(self, _):
        raise self.error


def sabotage(cohort: Cohort, key: int, after: int, error: Exception, backward: bool = False) -> None:
    terms = cohort._members[key].trained.losses
    name = next(iter(terms))
    terms[name] = Breaks(terms[name], after, error, backward)


def test_a_member_among_four_equals_the_same_run_alone_bit_for_bit(cohort, runs, solo):
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    told = train(cohort, 3)
    for key, (reports, final) in enumerate(solo):
        assert told[key] == reports
        assert same(state(cohort, key), final)
    assert len({tuple(reports[0].losses.values()) for reports in told.values()}) == 4


@pytest.mark.parametrize("backward", [False, True])
def test_a_neighbour_that_fails_in_the_middle_of_an_epoch_changes_nothing(cohort, runs, solo, backward):
    cohort.admit(0, runs[0])
    cohort.admit(1, runs[2])
    cohort.admit(2, exploding())
    cohort.admit(3, runs[1])
    sabotage(cohort, 1, STEPS + 1, ValueError("the loss\nbroke"), backward)
    told = train(cohort, 3)
    nan, bug = told[2][-1], told[1][-1]
    assert (nan.kind, nan.epoch) == (FailureKind.NOT_FINITE, 1)
    assert (bug.kind, bug.epoch, bug.message) == (FailureKind.BUG, 2, "ValueError: the loss broke")
    assert "Traceback" in bug.detail
    for key, (reports, final) in ((0, solo[0]), (3, solo[1])):
        assert told[key] == reports
        assert same(state(cohort, key), final)
    with pytest.raises(KeyError):
        cohort.replay(1)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")],
)
def test_out_of_memory_names_the_width_and_the_batch(cohort, error):
    cohort.admit(7, make())
    sabotage(cohort, 7, 0, error)
    failure = cohort.epoch()[7]
    assert failure.kind is FailureKind.OUT_OF_MEMORY
    assert "width 4" in failure.message
    assert "batch_size 4" in failure.message
    assert cohort.epoch() == {}


def test_a_failure_in_the_last_step_of_an_epoch_is_told_with_that_epoch(cohort):
    cohort.admit(0, make())
    sabotage(cohort, 0, STEPS - 1, ValueError("late"))
    assert cohort.epoch()[0].epoch == 1


def test_a_weight_never_takes_a_step_that_is_not_finite(cohort):
    """The weights that a failed member leaves are those before the bad step."""
    cohort.admit(0, exploding())
    student = cohort._members[0].trained
    assert isinstance(cohort.epoch()[0], Failure)
    assert torch.isfinite(student.flat.weights).all()


def test_a_bad_file_ends_every_member_of_its_stream_and_no_other(cohort, tmp_path):
    cohort.admit(0, make())
    cohort.admit(1, make(student={"name": "unet", "width": 8}))
    cohort.admit(2, make(seed=2))

    class Spoilt:
        steps = STEPS

        def epoch(self, number):
            yield from list(cohort._members[2].stream.epoch(number))[:2]
            raise DataError("kvasir/a.png: cannot be decoded")

    for key in (0, 1):
        cohort._members[key].stream = Spoilt()
    told = train(cohort, 3)
    assert [(f.kind, f.message) for f in (told[0][0], told[1][0])] == [
        (FailureKind.BAD_DATA, "kvasir/a.png: cannot be decoded")
    ] * 2
    assert told[2] == alone(make(seed=2), tmp_path)[0]


def test_what_cannot_be_built_fails_at_its_first_epoch_and_leaves_the_others_alone(cohort, tmp_path, teacher):
    missing = str(tmp_path / "none.safetensors")
    lost = teacher | {"checkpoint": missing}
    cohort.admit(0, make(teacher=lost, method="kl", losses={"ce": {}, "kl": {}}))
    cohort.admit(1, make(student={"name": "unet", "width": 4, "checkpoint": missing}))
    cohort.admit(2, make())
    cohort.admit(3, make(), Resume(tmp_path / "none.pt", ((1, 0),)))
    told = cohort.epoch()
    for key in (0, 1, 3):
        assert isinstance(told[key], Failure)
        assert told[key].kind is FailureKind.STORAGE
        assert "none" in told[key].message
    assert bare(told[2]) == alone(make(), tmp_path, 1)[0][0]


def test_one_teacher_pass_serves_all_who_listen_and_none_is_made_for_nobody(cohort, runs):
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


def test_distinct_teachers_are_asked_once_each(cohort, teacher):
    run = make(teacher=teacher, method="kl", losses={"ce": {}, "kl": {}})
    cohort.admit(0, run)
    cohort.admit(1, run.model_copy(update={"precision": "bf16"}))
    cohort.admit(2, run.model_copy(update={"precision": "bf16", "epochs": 2}))
    cohort.epoch()
    assert cohort.counters.teacher_forwards == 2 * STEPS


def test_data_and_teacher_are_brought_into_memory_once_for_many_trials(cohort, teacher):
    run = make(epochs=1, teacher=teacher, method="kl", losses={"ce": {}, "kl": {}})
    for key in range(3):
        cohort.admit(key, run)
        assert cohort.epoch()[key].final
        cohort.dismiss(key)
    assert cohort.counters.opened == 2


def test_a_resumed_run_equals_one_that_was_never_interrupted(cohort, runs, solo, tmp_path):
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


def test_a_run_that_jumps_in_the_stream_is_repeated_from_its_replay(cohort, runs, tmp_path):
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


def test_what_was_copied_is_written_as_it_was_while_training_goes_on(cohort, runs, tmp_path):
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


def test_a_restarted_cohort_goes_on_like_the_uninterrupted_one(tmp_path):
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


def test_a_stream_without_members_begins_anew(cohort):
    cohort.admit(0, make())
    cohort.epoch()
    cohort.dismiss(0)
    cohort.admit(1, make())
    assert cohort.epoch()[1].stream_epoch == 0


def test_streams_of_other_seeds_run_in_one_cohort(cohort, tmp_path):
    cohort.admit(0, make())
    cohort.epoch()
    cohort.admit(1, make(seed=9))
    told = cohort.epoch()
    assert (told[0].stream_epoch, told[1].stream_epoch) == (1, 0)
    assert bare(told[1]) == alone(make(seed=9), tmp_path, 1)[0][0]


def test_a_finished_member_waits_to_be_dismissed_without_being_trained(cohort):
    cohort.admit(0, make(epochs=1))
    assert cohort.epoch()[0].final
    before = cohort.counters.student_steps
    assert cohort.epoch() == {}
    assert cohort.counters.student_steps == before


def test_slots_and_keys_are_guarded(cohort):
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


def test_epochs_are_scored_where_that_is_due_and_seconds_have_every_part(cohort):
    cohort.admit(0, make(epochs=5, validate={"from": 2, "every": 2}))
    reports = [cohort.epoch()[0] for _ in range(5)]
    assert [report.epoch for report in reports if report.scores] == [2, 4, 5]
    for report in reports:
        assert set(report.seconds) == {"data", "teacher", "student", "validation", "other"}
        assert report.seconds["student"] > 0
        assert report.seconds["teacher"] == 0


def test_a_wish_to_stop_ends_the_epoch_at_a_step(tmp_path):
    ranks = Ranks("cpu")
    cohort = Cohort(ranks, slots=1, cache=tmp_path)
    cohort.admit(0, make())
    cohort.epoch()
    ranks.ask_to_stop()
    with pytest.raises(Stopped):
        cohort.epoch()
    assert cohort.counters.student_steps < 2 * STEPS


def test_the_best_epoch_is_exported_with_what_a_reader_must_know(cohort, tmp_path):
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


def test_a_checkpoint_gives_the_weights_to_start_from(cohort, teacher):
    run = make(student={"name": "unet", "width": 6, "checkpoint": teacher["checkpoint"]})
    cohort.admit(0, run)
    cohort.admit(1, make(student={"name": "unet", "width": 6}))
    from trainer.checkpoint import weights

    given = weights(Path(teacher["checkpoint"])).tensors
    assert same(state(cohort, 0)["network"], dict(given))
    assert not same(state(cohort, 1)["network"], dict(given))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optim": {"lr": 0.5}}, "belongs to another run"),
        ({"data": DATA | {"seed": 5}}, "other data"),
    ],
)
def test_a_state_resumes_only_the_run_that_it_belongs_to(cohort, tmp_path, change, words):
    cohort.admit(0, make())
    cohort.epoch()
    saved = cohort.snapshot(0)(tmp_path / "state.pt")
    cohort.admit(1, make(**change), Resume(saved.path, ((1, 0),)))
    assert words in cohort.epoch()[1].message


def test_fp16_skips_steps_that_overflow_and_trains(tmp_path):
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    cohort.admit(0, make(precision="fp16", epochs=2))
    student = cohort._members[0].trained
    student.scale.state[0] = 2.0**100
    first = cohort.epoch()[0]
    assert student.optimizer.state["step"].item() == 0
    assert student.scale.value.item() == 2.0**96
    assert math.isnan(first.losses["ce"])
    student.scale.state[0] = 1024.0
    second = cohort.epoch()[0]
    assert student.optimizer.state["step"].item() == STEPS
    assert math.isfinite(second.losses["ce"])


def test_fp16_fails_when_no_scale_helps(tmp_path):
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    cohort.admit(0, make(precision="fp16"))
    student = cohort._members[0].trained
    with torch.no_grad():
        student.flat.weights.fill_(math.nan)
        student.scale.state[0] = student.scale.FLOOR
    assert cohort.epoch()[0].kind is FailureKind.NOT_FINITE


def test_a_term_without_a_single_unit_is_zero_and_moves_nothing(cohort, tmp_path):
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


def test_a_rank_without_an_image_sends_zeros(cohort):
    cohort.admit(0, make())
    student = cohort._members[0].trained
    student.begin_epoch()
    none = torch.zeros(0, 3, 32, 32), torch.zeros(0, 32, 32, dtype=torch.long)
    assert student.forward(*none, None).sum() == 0
    assert student.backward(torch.tensor([9.0, 0.0, 0.0], dtype=torch.float64)).abs().sum() == 0


def test_fit_raises_what_the_member_died_of(tmp_path):
    run = exploding()
    with pytest.raises(RunFailed, match="not_finite") as error:
        list(fit(run, cache=tmp_path, ranks=Ranks("cpu")))
    assert error.value.failure.kind is FailureKind.NOT_FINITE


def test_fit_writes_after_each_epoch_and_resumes_from_it(tmp_path):
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


def test_a_loss_learns_of_each_epoch_before_its_first_step_and_so_after_a_resume(cohort, tmp_path):
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


def test_a_run_is_checked_without_reading_a_file(teacher):
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
def test_what_cannot_work_is_one_line_that_begins_with_the_field(change, words):
    with pytest.raises(ValueError, match=words) as error:
        check(make(**change))
    assert "\n" not in str(error.value)


def test_the_shapes_that_are_known_without_opening_data_are_right(tmp_path):
    data = open_data(make().data, cache=tmp_path)
    assert (data.channels, data.classes) == (CHANNELS["blobs"], CLASSES["blobs"])


def test_checkpoint_errors_of_a_resume_hold_one_line(tmp_path):
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    cohort.admit(0, make(), Resume(tmp_path / "bad.pt"))
    failure = cohort.epoch()[0]
    assert "bad.pt" in failure.message
    assert "\n" not in failure.message
    assert CheckpointError.__name__ in failure.detail
