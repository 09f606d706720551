"""A student with heads of deep supervision: they learn where a term names them, and stay out of everything else."""

import pytest
import torch

from models.config import network_config
from trainer import checkpoint
from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks
from trainer.dry_run import check
from trainer.engine.fit import fit

RUN = {
    "epochs": 1,
    "batch_size": 4,
    "data": {"name": "blobs", "size": 32, "train": 8, "validation": 4},
    "student": {"name": "unetplusplus", "width": 2, "deep_supervision": True},
    "optim": {"name": "sgd", "lr": 0.1, "schedule": {"name": "constant"}},
}


def make(**losses):
    return RunConfig.model_validate({**RUN, "losses": losses})


def trained(tmp_path, **losses):
    """The report of the only epoch, and the weights."""
    path = tmp_path / "weights.safetensors"
    (report,) = fit(make(**losses), cache=tmp_path, export=path, ranks=Ranks("cpu"))
    return report, checkpoint.weights(path).tensors


def test_heads_learn_where_a_term_names_them_and_the_rest_of_the_run_goes_on(tmp_path):
    plain, without = trained(tmp_path, ce={}, dice={})
    deep, learnt = trained(tmp_path, ce={"heads": [0.5, 0.0, 1.0]}, dice={})
    moved = [not torch.equal(without[f"heads.{i}.weight"], learnt[f"heads.{i}.weight"]) for i in range(3)]
    assert moved == [True, False, True]
    assert not torch.equal(without["encoders.0.0.0.weight"], learnt["encoders.0.0.0.weight"])
    assert plain.losses["dice"] > 0
    assert deep.losses["ce"] > plain.losses["ce"]
    assert sum(deep.shares.values()) == pytest.approx(1.0)


def test_heads_that_no_network_has_are_a_line_before_training():
    student = network_config("unet", width=2)
    run = make(ce={"heads": 0.5}).model_copy(update={"student": student})
    with pytest.raises(ValueError, match=r"^losses\.ce\.heads = 0\.5: the student has no heads of deep supervision"):
        check(run)
    assert check(make(ce={"heads": 0.5})).params > 0
