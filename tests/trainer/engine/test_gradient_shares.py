"""The share of each loss term in the gradient: what it says, that it changes no number, and where it is kept."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from models.output import Output
from search.study.trial_attributes import gradient_attributes, shares_of
from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.engine.student import Shares, shares
from trainer.reports import EpochReport

PLAIN = {
    "epochs": 2,
    "batch_size": 4,
    "data": {"name": "blobs", "size": 32, "train": 12, "validation": 4},
    "student": {"name": "unet", "width": 4},
}
LOGITS = {"ce": {"weight": 1.0}, "dice": {"weight": 1e-6}}
TAPS = {"ce": {"weight": 1.0}, "selfreg": {"weight": 0.5}}


def trained(losses: dict[str, Any], cache: Path) -> tuple[list[EpochReport], dict[str, Any]]:
    """The reports of a run, and its state at the end."""
    cohort = Cohort(Ranks("cpu"), slots=1, cache=cache)
    cohort.admit(0, RunConfig.model_validate({**PLAIN, "losses": losses}))
    told = [cohort.epoch()[0] for _ in range(2)]
    reports = [report for report in told if isinstance(report, EpochReport)]
    assert len(reports) == 2, told
    return reports, cohort._members[0].trained.state()


@pytest.mark.parametrize("losses", [LOGITS, TAPS], ids=["logits", "taps"])
def test_shares_are_told_and_change_no_number(
    losses: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports, state = trained(losses, tmp_path)
    for report in reports:
        assert list(report.shares) == list(losses)
        assert sum(report.shares.values()) == pytest.approx(1)
        assert all(share >= 0 for share in report.shares.values())
    monkeypatch.setattr(Shares, "measure", lambda self, terms: None)
    without, plain = trained(losses, tmp_path)
    assert [report.shares for report in without] == [{}, {}]
    assert [(r.scores, r.losses) for r in reports] == [(r.scores, r.losses) for r in without]
    for name in ("network", "losses"):
        assert all(torch.equal(tensor, plain[name][key]) for key, tensor in state[name].items())


def test_a_term_of_next_to_no_weight_is_dead_and_one_alone_is_everything(tmp_path: Path) -> None:
    report = trained(LOGITS, tmp_path)[0][-1]
    assert report.shares["dice"] < 1e-3
    assert gradient_attributes(report.shares)["gradient.dead"] == "dice"
    assert trained({"ce": {}}, tmp_path)[0][-1].shares == {"ce": 1.0}


def test_norms_are_those_of_the_weighted_terms() -> None:
    logits = torch.tensor([[3.0, 4.0]], requires_grad=True)
    measure = Shares(3, torch.device("cpu"))
    measure.begin_batch(Output(logits, {}), nn.Linear(1, 1), taps=False)
    measure.measure([2 * logits.sum(), (logits**2).sum() / 2, None])
    assert measure.norms.tolist() == pytest.approx([2 * math.sqrt(2), 5.0, 0.0])
    measure.begin_batch(Output(logits, {}), nn.Linear(1, 1), taps=False)
    measure.measure([logits.sum(), logits.sum(), None])
    assert measure.norms.tolist() == pytest.approx([2 * math.sqrt(2), 5.0, 0.0]), "only the epoch's first batch counts"
    measure.begin()
    assert measure.norms.tolist() == [0.0, 0.0, 0.0]


def test_a_gradient_that_is_zero_or_not_finite_has_no_shares() -> None:
    assert shares([1.0, 3.0]) == [0.25, 0.75]
    assert shares([0.0, 0.0]) == shares([math.nan, 1.0]) == shares([math.inf, 1.0]) == []


def test_the_report_tells_the_median_share_and_where_a_term_was_dead() -> None:
    told = [{"ce": 0.9, "kl": 0.1}, {"ce": 0.995, "kl": 0.005}, {"ce": 0.8, "kl": 0.2}]
    trials = [
        SimpleNamespace(state=SimpleNamespace(name="COMPLETE"), user_attrs=gradient_attributes(each)) for each in told
    ]
    pruned = SimpleNamespace(
        state=SimpleNamespace(name="PRUNED"), user_attrs=gradient_attributes({"ce": 1.0, "kl": 0.0})
    )
    found = {share.term: share for share in shares_of([*trials, pruned])}
    assert (found["kl"].median, found["kl"].dead, found["kl"].trials) == (0.1, 1, 3)
    assert (found["ce"].median, found["ce"].dead) == (0.9, 0)
