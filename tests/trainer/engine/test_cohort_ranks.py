"""A cohort on two real ranks: equal weights, one gradient, failures of one member on one rank, wishes to stop."""

import socket
from pathlib import Path

import albumentations  # noqa: F401 - here once, and not in each rank
import pytest
import torch

SCRIPT = """
import dataclasses, os, signal
from pathlib import Path
import torch
from trainer.engine.cohort import Cohort
from trainer.config import RunConfig
from trainer.data import open_data
from trainer.data.streams.batches import normalise
from trainer.data.streams.stream import Stream
from trainer.failures import local_failure
from trainer.distributed.ranks import Ranks, RanksLost
from trainer.reports import EpochReport, Resume, Stopped
from trainer.engine.student import Student
from trainer.engine.validation_loss import validation_loss

out = Path({out!r})
ranks = Ranks.join(2, stall={stall}, grace=60, device="cpu")
DATA = {{"name": "blobs", "size": 32, "train": 16, "validation": 12}}

def make(**changes):
    plain = {{"epochs": 2, "batch_size": 4, "data": DATA, "student": {{"name": "unet", "width": 4}},
             "losses": {{"ce": {{}}, "dice": {{}}}}, "optim": {{"lr": 0.01}}}}
    return RunConfig.model_validate(plain | changes)

A = make()
B = make(student={{"name": "unet", "width": 6}}, optim={{"ema": True}})
C = make(losses={{"ce": {{}}, "selfreg": {{}}}})

def bare(report):
    return dataclasses.replace(report, seconds={{}}) if isinstance(report, EpochReport) else report

def plain(report):
    return {{k: (dict(v) if hasattr(v, "items") else str(v) if not isinstance(v, (int, float, bool, type(None))) else v)
            for k, v in vars(bare(report)).items() if k not in ("detail", "passes")}}  # reports do not compare passes

class Burst(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x * 1
    @staticmethod
    def backward(context, gradient):
        raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")

class Breaks(torch.nn.Module):
    needs_teacher = False
    def __init__(self, inner, after):
        super().__init__()
        self.inner, self.left = inner, after
    def begin_epoch(self, *arguments):
        self.inner.begin_epoch(*arguments)
    def forward(self, *arguments):
        self.left -= 1
        term = self.inner(*arguments)
        return term if self.left >= 0 else term._replace(total=Burst.apply(term.total))

def cohort_of(*runs):
    cohort = Cohort(ranks, slots=4, cache=out / "cache")
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    return cohort

def told(cohort, epochs=2):
    return [{{key: plain(report) for key, report in cohort.epoch().items()}} for _ in range(epochs)]

def weights(cohort, *keys):
    return {{key: cohort._members[key].trained.state() | {{"run": ""}} for key in keys}}
"""

SCENES = """
found = {}
cohort = cohort_of(A, B, C)
found["whole"] = {"told": told(cohort), "weights": weights(cohort, 0, 1, 2)}

cohort = cohort_of(make(recompute="normalisation"))
found["lean"] = {"told": told(cohort), "weights": weights(cohort, 0)}

cohort = cohort_of(A, B, C)
if ranks.rank == 1:
    terms = cohort._members[1].trained.losses
    terms["dice"] = Breaks(terms["dice"], 5)
found["backward"] = {"told": told(cohort), "weights": weights(cohort, 0, 2)}

cohort = cohort_of(A, B, C)
if ranks.rank == 0:
    optimizer, steps = cohort._members[1].trained.optimizer, []
    step = optimizer.step
    def full(*arguments):
        steps.append(None)
        if len(steps) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory in the optimizer")
        step(*arguments)
    optimizer.step = full
found["update"] = {"told": told(cohort), "weights": weights(cohort, 0, 2)}

cohort = cohort_of(A, B)
def broken(*_):
    raise ValueError("validation broke here")
if ranks.rank == 1:
    cohort._members[1].trained.eval_network.register_forward_pre_hook(broken)
found["validation"] = {"told": told(cohort), "weights": weights(cohort, 0)}

cohort = cohort_of(A)
first = told(cohort, 1)
if ranks.leads:
    cohort.snapshot(0)(out / "state.pt")
ranks.broadcast(None)
cohort = Cohort(ranks, slots=2, cache=out / "cache")
cohort.admit(0, A, Resume(out / "state.pt", ((1, 0),)))
cohort.admit(1, C, Resume(out / ("state.pt" if ranks.leads else "missing.pt"), ((1, 0),)))
found["resumed"] = {"told": first + told(cohort, 1), "weights": weights(cohort, 0)}

cohort = cohort_of(A)
cohort.epoch()
if ranks.leads:
    cohort.export(0, out / "teacher.safetensors")
ranks.broadcast(None)
teacher = {"name": "unet", "width": 4, "checkpoint": str(out / "teacher.safetensors")}
cohort = cohort_of(make(method="kl", losses={"ce": {}, "kl": {}}, teacher=teacher, data=DATA | {"views": 2}))
found["views"] = {"told": told(cohort), "weights": weights(cohort, 0)}
found["forwards"] = cohort.counters.teacher_forwards

plateau = {"schedule": {"name": "plateau", "by": "loss"}}
cohort = cohort_of(make(method="kl", losses={"ce": {}, "kl": {}, "selfreg": {}}, teacher=teacher, optim=plateau))
found["by loss"] = {"told": told(cohort), "weights": weights(cohort, 0)}
student = cohort._members[0].trained
found["losses"] = [validation_loss(student, cohort._resources, where) for where in (ranks, Ranks("cpu"))]

cohort = cohort_of(make(epochs=9), B)
cohort.epoch()
if ranks.rank == 1:
    ranks.ask_to_stop()
try:
    cohort.epoch()
    found["stopped"] = None
except Stopped:
    found["stopped"] = cohort.counters.student_steps
ranks._wish[0] = False

cohort = cohort_of(A)
scored = []
def asked_meanwhile(network, _):
    if not network.training:
        scored.append(None)
        if ranks.rank == 1:
            ranks.ask_to_stop()
cohort._members[0].trained.eval_network.register_forward_pre_hook(asked_meanwhile)
try:
    cohort.epoch()
    found["stopped while scoring"] = None
except Stopped:
    found["stopped while scoring"] = len(scored)
ranks._wish[0] = False
gradients = {}
for where in (ranks, Ranks("cpu")):
    data = open_data(A.data, cache=out / "cache")
    stream = Stream(data, batch_size=4, seed=1, rank=where.rank, world=where.world)
    student = Student(A, data, teacher=None, steps=stream.steps, ranks=where, monitor="dice")
    student.begin_epoch()
    student.network.eval()
    batch = next(iter(stream.epoch(0)))
    sums = where.all_reduce(student.forward(normalise(batch.images), batch.masks.long(), None))
    where.all_reduce(student.backward(sums))
    gradients[where.world] = student.flat.gradient.clone()
found["gradients"] = gradients
torch.save(found, out / f"found-{ranks.rank}.pt")
ranks.leave()
"""


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return bool(first == second)


def ranks_of(fork, folder: Path, body: str, stall: float = 60) -> list:
    """Two ranks of one group that play a script."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    script = SCRIPT.format(out=str(folder), stall=stall) + body
    return [fork(script, **where, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, fork) -> list[dict]:
    """What each of two ranks found in all scenes, played once."""
    folder = tmp_path_factory.mktemp("scenes")
    for rank in ranks_of(fork, folder, SCENES):
        assert rank.wait(200) == 0, rank.log
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(2)]


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scene", ["whole", "lean", "backward", "update", "validation", "resumed", "views", "by loss"])
def test_both_ranks_end_with_equal_weights_and_reports(scenes, scene):
    assert same(scenes[0][scene], scenes[1][scene])


def test_the_ranks_train_each_its_share_of_one_batch(scenes):
    """Per-image shares and global counts give the gradient of the whole batch in one process."""
    gradients = scenes[0]["gradients"]
    assert torch.equal(gradients[2], scenes[1]["gradients"][2])
    assert gradients[1].abs().max() > 1e-3
    torch.testing.assert_close(gradients[2], gradients[1], rtol=1e-4, atol=1e-6)


def test_the_loss_on_validation_is_the_same_on_any_number_of_ranks(scenes):
    """Of a term that draws, too: each batch has its own draws, whichever rank it is on."""
    assert scenes[0]["losses"][0] == scenes[0]["losses"][1] == scenes[1]["losses"][0] == scenes[1]["losses"][1] > 0


def test_ranks_share_the_making_of_views(scenes):
    """One chunk a view, two views; where both ranks begin with the same chunk, one of the two is kept."""
    assert 2 <= sum(scene["forwards"] for scene in scenes) <= 4
    assert all(epoch[0]["losses"]["kl"] > 0 for epoch in scenes[0]["views"]["told"])


def test_a_member_that_fails_in_backward_on_one_rank_ends_alone(scenes):
    whole, broken = scenes[0]["whole"], scenes[0]["backward"]
    assert broken["told"][1][1]["kind"] == "out_of_memory"
    assert "width 6" in broken["told"][1][1]["message"]
    for key in (0, 2):
        assert same(broken["weights"][key], whole["weights"][key])
        assert [epoch[key] for epoch in broken["told"]] == [epoch[key] for epoch in whole["told"]]


def test_a_member_that_fails_after_the_last_flag_of_an_epoch_ends_alone(scenes):
    whole, broken = scenes[0]["whole"], scenes[0]["update"]
    assert (broken["told"][0][1]["kind"], broken["told"][0][1]["epoch"]) == ("out_of_memory", 1)
    assert all(same(broken["weights"][key], whole["weights"][key]) for key in (0, 2))


def test_a_member_whose_validation_breaks_on_one_rank_ends_alone(scenes):
    broken = scenes[0]["validation"]
    assert broken["told"][0][1]["message"] == "ValueError: validation broke here"
    assert 1 not in broken["told"][1]
    assert same(broken["weights"][0], scenes[0]["whole"]["weights"][0])


def test_maps_that_are_computed_again_change_no_weight_on_two_ranks(scenes):
    assert same(scenes[0]["lean"]["weights"][0], scenes[0]["whole"]["weights"][0])


def test_a_run_resumed_on_two_ranks_equals_the_whole_one(scenes):
    resumed, whole = scenes[0]["resumed"], scenes[0]["whole"]
    assert same(resumed["weights"][0], whole["weights"][0])
    assert [epoch[0] for epoch in resumed["told"]] == [epoch[0] for epoch in whole["told"]]


def test_a_checkpoint_that_one_rank_cannot_read_fails_that_member_on_both(scenes):
    failure = scenes[0]["resumed"]["told"][1][1]
    assert failure["kind"] == "storage"
    assert "missing.pt" in failure["message"] or "another run" in failure["message"]


def test_a_wish_of_one_rank_stops_both_at_the_same_step(scenes):
    assert scenes[0]["stopped"] == scenes[1]["stopped"]
    assert 8 < scenes[0]["stopped"] < 16


def test_a_wish_to_stop_between_two_images_on_one_rank_stops_both(scenes):
    """It leaves after its first batch of three; the other one learns of it before the sum that both come to."""
    assert [scene["stopped while scoring"] for scene in scenes] == [3, 1]


DEATH = """
import time
cohort = cohort_of(make(epochs=50), B)
cohort.epoch()
(out / f"trains-{ranks.rank}").touch()
if ranks.rank == 0:
    ranks._stall = STALL
if ranks.rank == 1:
    cohort._members[0].trained.network.register_forward_pre_hook(lambda *_: DO)
started = time.monotonic()
try:
    while True:
        cohort.epoch()
except RanksLost as error:
    (out / f"lost-{ranks.rank}.txt").write_text(f"{time.monotonic() - started} {error}")
    os._exit(3)
"""


@pytest.mark.parametrize(
    ("deed", "stall", "least", "most"),
    [("os.kill(os.getpid(), signal.SIGKILL)", 60, 0.0, 30.0), ("time.sleep(600)", 3, 3.0, 30.0)],
    ids=["killed", "hung"],
)
def test_a_lost_rank_ends_the_other_within_the_stall_limit(tmp_path, fork, deed, stall, least, most):
    left, lost = ranks_of(fork, tmp_path, DEATH.replace("DO", deed).replace("STALL", str(stall)))
    try:
        assert left.wait(60) == 3, left.log
        seconds, _, message = (tmp_path / "lost-0.txt").read_text().partition(" ")
        assert least <= float(seconds) < most
        assert message
        if least == 0.0:
            assert lost.wait(60) == -9
    finally:
        lost.kill()
