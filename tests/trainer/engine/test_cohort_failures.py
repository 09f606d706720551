"""What ends a member: its own failure, never a neighbour's, told with its epoch and its kind."""

import math

import pytest
import torch

from losses.term import Term
from trainer.data import DataError
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.fit import fit
from trainer.errors import CheckpointError
from trainer.reports import Failure, FailureKind, Resume, RunFailed

DATA = {"name": "blobs", "size": 32, "train": 16, "validation": 6}
STEPS = 4


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


@pytest.mark.parametrize("backward", [False, True])
def test_a_neighbour_that_fails_in_the_middle_of_an_epoch_changes_nothing(
    cohort, runs, solo, backward, exploding, train, state, same
):
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
def test_out_of_memory_names_the_width_and_the_batch(cohort, error, make):
    cohort.admit(7, make())
    sabotage(cohort, 7, 0, error)
    failure = cohort.epoch()[7]
    assert failure.kind is FailureKind.OUT_OF_MEMORY
    assert "width 4" in failure.message
    assert "batch_size 4" in failure.message
    assert cohort.epoch() == {}


def test_a_failure_in_the_last_step_of_an_epoch_is_told_with_that_epoch(cohort, make):
    cohort.admit(0, make())
    sabotage(cohort, 0, STEPS - 1, ValueError("late"))
    assert cohort.epoch()[0].epoch == 1


def test_a_weight_never_takes_a_step_that_is_not_finite(cohort, exploding):
    """The weights that a failed member leaves are those before the bad step."""
    cohort.admit(0, exploding())
    student = cohort._members[0].trained
    assert isinstance(cohort.epoch()[0], Failure)
    assert torch.isfinite(student.flat.weights).all()


def test_a_bad_file_ends_every_member_of_its_stream_and_no_other(cohort, tmp_path, make, train, alone):
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


def test_what_cannot_be_built_fails_at_its_first_epoch_and_leaves_the_others_alone(
    cohort, tmp_path, teacher, make, bare, alone
):
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optim": {"lr": 0.5}}, "belongs to another run"),
        ({"data": DATA | {"seed": 5}}, "other data"),
    ],
)
def test_a_state_resumes_only_the_run_that_it_belongs_to(cohort, tmp_path, change, words, make):
    cohort.admit(0, make())
    cohort.epoch()
    saved = cohort.snapshot(0)(tmp_path / "state.pt")
    cohort.admit(1, make(**change), Resume(saved.path, ((1, 0),)))
    assert words in cohort.epoch()[1].message


def test_fp16_skips_steps_that_overflow_and_trains(tmp_path, make):
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


def test_fp16_fails_when_no_scale_helps(tmp_path, make):
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    cohort.admit(0, make(precision="fp16"))
    student = cohort._members[0].trained
    with torch.no_grad():
        student.flat.weights.fill_(math.nan)
        student.scale.state[0] = student.scale.FLOOR
    assert cohort.epoch()[0].kind is FailureKind.NOT_FINITE


def test_fit_raises_what_the_member_died_of(tmp_path, exploding):
    run = exploding()
    with pytest.raises(RunFailed, match="not_finite") as error:
        list(fit(run, cache=tmp_path, ranks=Ranks("cpu")))
    assert error.value.failure.kind is FailureKind.NOT_FINITE


def test_checkpoint_errors_of_a_resume_hold_one_line(tmp_path, make):
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    (tmp_path / "bad.pt").write_bytes(b"not a checkpoint")
    cohort.admit(0, make(), Resume(tmp_path / "bad.pt"))
    failure = cohort.epoch()[0]
    assert "bad.pt" in failure.message
    assert "\n" not in failure.message
    assert CheckpointError.__name__ in failure.detail
