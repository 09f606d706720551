"""`plateau` by the loss on validation: what it is, and that looking at it changes nothing else."""

import math

import pytest
import torch

from tests.trainer.engine.conftest import alone, make, same, train
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.validation_loss import validation_loss
from trainer.reports import Failure, Resume

PLATEAU = {"name": "adam", "schedule": {"name": "plateau", "patience": 0, "by": "loss"}}
LOSSES = {"ce": {}, "kl": {"temperature": 2.0, "weight": 0.5}, "selfreg": {"weight": 0.1}}


@pytest.fixture(scope="module")
def taught(teacher):
    return make(teacher=teacher, method="kl", losses=LOSSES, optim=PLATEAU)


def test_the_loss_is_the_weighted_mean_of_the_live_terms_on_validation(teacher, tmp_path):
    """Of the cross-entropy and the soft labels, by plain formulas over all validation images at once."""
    losses = {"ce": {"weight": 2.0}, "kl": {"temperature": 2.0, "weight": 0.5}}
    run = make(teacher=teacher, method="kl", losses=losses, optim=PLATEAU)
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    cohort.admit(0, run)
    cohort.epoch()
    student, data = cohort._members[0].trained, cohort._resources.data(run)
    pairs = [data.fitted("validation", index) for index in range(len(data.samples("validation")))]
    images = torch.stack([torch.from_numpy(image.copy()) for image, _ in pairs]).permute(0, 3, 1, 2).float() / 255
    target = torch.stack([torch.from_numpy(mask.copy()) for _, mask in pairs]).long()
    how = student.network.normalisation
    images = (images - torch.tensor(how.mean).view(-1, 1, 1)) / torch.tensor(how.std).view(-1, 1, 1)
    student.eval_network.eval()
    with torch.no_grad():
        ours, theirs = student.eval_network(images).logits, cohort._resources.teacher(run)(images).logits
    ce = torch.nn.functional.cross_entropy(ours, target, ignore_index=255)
    p, q = (torch.log_softmax(logits / 2.0, 1) for logits in (theirs, ours))
    kl = 4.0 * (p.exp() * (p - q)).sum(1)[target != 255].mean()
    loss = validation_loss(student, cohort._resources, Ranks("cpu"))
    assert loss == pytest.approx(float(2 * ce + 0.5 * kl), rel=1e-4)


def test_looking_at_the_loss_changes_no_weight_until_the_rate_falls(teacher, tmp_path):
    by_loss, by_score = (
        make(
            teacher=teacher,
            method="kl",
            losses=LOSSES,
            optim={"name": "adam", "schedule": {"name": "plateau", "patience": 10, **more}},
        )
        for more in ({"by": "loss"}, {})
    )
    (first, one), (second, other) = alone(by_loss, tmp_path), alone(by_score, tmp_path)
    assert first == second
    assert same(one["network"], other["network"])
    assert one["schedule"]["best"] < 0 < other["schedule"]["best"]


def test_a_resumed_run_knows_the_best_loss(taught, tmp_path):
    whole, end = alone(taught, tmp_path)
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    cohort.admit(0, taught)
    train(cohort, 1)
    cohort.snapshot(0)(tmp_path / "epoch-1.pt")
    again = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    again.admit(0, taught, Resume(tmp_path / "epoch-1.pt", ()))
    assert train(again, taught.epochs - 1)[0] == whole[1:]
    assert same(again._members[0].trained.state()["schedule"], end["schedule"])


def test_memories_and_heads_do_not_mind(teacher, tmp_path):
    """A loss that remembers batches, and deep supervision, whose heads are there in training alone."""
    run = make(
        epochs=1,
        teacher=teacher,
        method="cirkd-memory",
        student={"name": "unetplusplus", "width": 4, "deep_supervision": True},
        losses={"ce": {"heads": 0.5}, "cirkd-memory": {"tap": ["dec1", "enc1"], "queue": 32, "contrast": 8}},
        optim=PLATEAU,
    )
    (report,), state = alone(run, tmp_path)
    assert not isinstance(report, Failure), report
    assert math.isfinite(state["schedule"]["best"])


def test_stored_maps_have_no_validation_images():
    with pytest.raises(ValueError, match=r"by = \"loss\": stored maps of a teacher are of training images"):
        make(teacher={"name": "maps", "checkpoint": "maps"}, method="kl", losses={"ce": {}, "kl": {}}, optim=PLATEAU)
