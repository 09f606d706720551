"""What must hold before any time is compared: equal scores, an equal loss, equal numbers alone and among others."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

import losses
import models
from benchmarks import plain
from benchmarks.workloads import BATCH, CHANNELS, CLASSES, Workload, study
from models.config import UNetNetwork
from models.output import Output
from trainer.config import RunConfig
from trainer.data import open_data
from trainer.distributed.ranks import Ranks
from trainer.engine.cohort import Cohort
from trainer.evaluation.metrics import validate
from trainer.reports import EpochReport

CLOSE = 1e-6


class Unequal(Exception):
    """The arms do not do the same work, so their times must not be compared."""


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise Unequal(what)
    print(f"equal: {what}", flush=True)


def check(folder: Path) -> None:
    """Everything below, on the pictures in the folder. Raises Unequal."""
    torch.set_num_threads(1)
    pair = Workload("gate", "resnet18", 8)
    spec = study(folder, pair, precision="fp32", trials=3, epochs=2)
    run = spec.run
    same_dice(run, folder)
    same_loss(run)
    with tempfile.TemporaryDirectory(prefix="gate-") as name:
        members_are_alone(run, folder, Path(name))


def same_dice(run: RunConfig, folder: Path) -> None:
    """One checkpoint, both scorers."""
    torch.manual_seed(1)
    network = models.build(UNetNetwork(name="unet", width=8), in_channels=CHANNELS, classes=CLASSES)
    with torch.no_grad():
        network.train()(torch.randn(4, CHANNELS, 64, 64))  # running means that let a random network say both classes
    data = open_data(run.data, cache=folder / "cache")
    ours = validate(network, data, "validation", ranks=Ranks("cpu"), precision="fp32").means["dice"]
    theirs = plain.scored(network, folder)
    _demand(abs(ours - theirs) < CLOSE, f"the same weights have the same Dice: {ours:.7f} and {theirs:.7f}")
    _demand(0.01 < ours < 0.99, "and that Dice is neither 0 nor 1")


def same_loss(run: RunConfig) -> None:
    """One batch, both losses."""
    torch.manual_seed(2)
    student, teacher = torch.randn(BATCH, CLASSES, 32, 32), torch.randn(BATCH, CLASSES, 32, 32)
    target = torch.randint(0, CLASSES, (BATCH, 32, 32))
    target[:, :4] = plain.IGNORED
    total = torch.zeros(())
    for name, term in run.live_terms().items():
        loss: nn.Module = losses.build(name, term, student={}, teacher={}, classes=CLASSES)
        value = loss(Output(student, {}), Output(teacher, {}), target)
        total = total + term.weight * value.total / value.count
    kl = run.losses.kl
    if kl is None:
        raise Unequal("the study of the gate has no kl term")
    theirs = plain.distillation_loss(student, teacher, target, kl.weight, kl.temperature)
    close = abs(float(total) - float(theirs)) < 1e-5 * float(theirs)
    _demand(close, f"the same batch has the same loss: {float(total):.6f} and {float(theirs):.6f}")


def members_are_alone(run: RunConfig, folder: Path, work: Path) -> None:
    """Three different students side by side, and each of them alone, bit for bit."""
    members = [_with(run, 8, 1e-3, 4.0), _with(run, 4, 3e-3, 2.0), _with(run, 8, 5e-4, 7.0)]
    together = _train(members, folder, work / "together")
    for number, member in enumerate(members):
        alone = _train([member], folder, work / f"alone-{number}")
        same = all(torch.equal(a, together[number][1][name]) for name, a in alone[0][1].items())
        words = f"student {number} of three has the weights, losses and scores that it has alone, bit for bit"
        _demand(same and alone[0][0] == together[number][0], words)


def _with(run: RunConfig, width: int, lr: float, temperature: float) -> RunConfig:
    table = run.model_dump(mode="json")
    table["student"] = {"name": "unet", "width": width}
    table["optim"]["lr"] = lr
    table["losses"]["kl"]["temperature"] = temperature
    return RunConfig.model_validate(table)


def _train(
    runs: list[RunConfig], folder: Path, work: Path
) -> list[tuple[list[tuple[object, object]], dict[str, torch.Tensor]]]:
    """Losses and scores by epoch, and the best weights, of runs that train side by side."""
    cohort = Cohort(Ranks("cpu"), slots=len(runs), cache=folder / "cache")
    told: list[list[tuple[object, object]]] = [[] for _ in runs]
    for key, run in enumerate(runs):
        cohort.admit(key, run)
    for _ in range(runs[0].epochs):
        for key, report in cohort.epoch().items():
            if not isinstance(report, EpochReport):
                raise Unequal(f"a student of the gate failed: {report.message}")
            told[key].append((dict(report.scores or {}), dict(report.losses)))
    found = []
    for key in range(len(runs)):
        path = work / f"{key}.safetensors"
        cohort.export(key, path)
        found.append((told[key], load_file(path)))
    return found
