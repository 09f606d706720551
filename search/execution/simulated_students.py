"""Made-up learning curves in place of training: the students of `search simulate`."""

import hashlib
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from trainer.config import Replay, RunConfig
from trainer.errors import UserError
from trainer.evaluation.score_names import SCORE_KINDS
from trainer.reports import EpochReport, Failure, FailureKind, PerImageResult, Resume, Saved, Write
from trainer.seeds import derive


class Curves:
    """Scores of a run by epoch: higher is better, as of Dice. `in_metric` makes another score of them."""

    def __init__(self, recorded: Sequence[Sequence[float]] = (), noise: float = 0.004) -> None:
        self._recorded = recorded
        self._noise = noise

    @classmethod
    def read(cls, path: Path) -> "Curves":
        """A JSON file: a list of curves, each a list of scores in [0, 1] by epoch. Raises UserError."""
        try:
            curves = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"--curves {path}: {error}; write a JSON list of lists of scores") from None
        good = isinstance(curves, list) and curves and all(isinstance(c, list) and c for c in curves)
        if not good or not all(isinstance(v, int | float) and 0 <= v <= 1 for c in curves for v in c):
            raise UserError(f"--curves {path}: no list of lists of scores in [0, 1]")
        return cls(curves)

    def score(self, run: RunConfig, epoch: int) -> float:
        """The score of an epoch (from 1), a function of the run alone."""
        key = int.from_bytes(hashlib.sha256(run.model_dump_json().encode()).digest()[:8], "big") >> 1
        if self._recorded:
            curve = self._recorded[key % len(self._recorded)]
            return float(curve[min(len(curve) - 1, (epoch - 1) * len(curve) // run.epochs)])
        noise = random.Random(derive(key, "noise", epoch)).gauss(0.0, self._noise)  # noqa: S311 - no secret
        rise = 0.25 * math.exp(-4.5 * epoch / run.epochs)
        return min(1.0, max(0.0, plateau(run) - rise + noise))


def plateau(run: RunConfig) -> float:
    """Where a run's curve ends: a smooth function with one best learning rate a width and one best temperature."""
    width = getattr(run.student, "width", 16)
    score = 0.94 - 0.35 / (width + 2) - 0.04 * (math.log10(run.optim.lr) + 2.6 + 0.4 * math.log2(width / 8) / 1.6) ** 2
    kl = run.losses.kl
    if "kl" in run.methods() and kl is not None:
        score += (
            0.012 - 0.02 * math.log(kl.temperature / 3.0) ** 2 - 0.012 * math.log10(max(kl.weight, 1e-6) / 3.0) ** 2
        )
    return score


LONGEST = 100.0
"""Pixels of a made-up distance where the formula has a score of 0; where it has 1, there is none."""


def in_metric(score: float, metric: str) -> float:
    """A score of `Curves` in the metric of a study: a length falls, in pixels, where a share rises."""
    length = SCORE_KINDS[metric.partition(".")[0]].unit == "length"
    return LONGEST * (1.0 - score) if length else score


class SimulatedStudents:
    """`trainer.reports.Students` whose epochs come from curves and whose checkpoints are small files."""

    measure: Callable[[RunConfig], tuple[PerImageResult, ...]] | None = None
    """Makes up the per-image results after the last epoch; None: there are none."""

    def __init__(self, curves: Curves, *, slots: int, metric: str, epoch_seconds: float, fail_share: float) -> None:
        self._curves, self._slots, self._metric = curves, slots, metric
        self._seconds, self._fail_share = epoch_seconds, fail_share
        self._members: dict[int, tuple[RunConfig, int, Replay]] = {}
        self._stream_epoch = 0

    def admit(self, key: int, run: RunConfig, resume: Resume | None = None) -> None:
        """Take a run into a free slot."""
        if len(self._members) >= self._slots or key in self._members:
            raise ValueError(f"no free slot for {key}: {len(self._members)} of {self._slots} are taken")
        epoch, replay = 0, () if resume is None else resume.replay
        if resume is not None and resume.checkpoint is not None:
            epoch = int(json.loads(resume.checkpoint.read_text())["epoch"])
        self._members[key] = (run, epoch, (*replay, (epoch + 1, self._stream_epoch)))

    def dismiss(self, key: int) -> None:
        """Forget a member."""
        del self._members[key]

    def replay(self, key: int) -> Replay:
        """The joins of a member so far."""
        return self._members[key][2]

    def epoch(self) -> dict[int, EpochReport | Failure]:
        """One epoch of every member."""
        time.sleep(self._seconds)
        reports: dict[int, EpochReport | Failure] = {}
        for key, (run, done, replay) in list(self._members.items()):
            if done == run.epochs:
                continue  # it waits to be dismissed
            epoch = done + 1
            draw = random.Random(derive(run.seed, "fail", key, epoch)).random()  # noqa: S311 - no secret
            if draw < self._fail_share / run.epochs:
                reports[key] = Failure(FailureKind.NOT_FINITE, "simulated: the loss is not finite", epoch)
                del self._members[key]
                continue
            due = run.validation.due(epoch, run.epochs)
            scores = {self._metric: in_metric(self._curves.score(run, epoch), self._metric)} if due else None
            seconds = {"student": self._seconds}
            final = epoch == run.epochs
            results = self.measure(run) if final and self.measure is not None else None
            reports[key] = EpochReport(epoch, self._stream_epoch, scores, {}, seconds, final, measured=results)
            self._members[key] = (run, epoch, replay)
        self._stream_epoch += 1
        return reports

    def snapshot(self, key: int) -> Write:
        """What writes a checkpoint of a member as it is now."""
        run, epoch, _ = self._members[key]
        return partial(self._write, values={"epoch": epoch, "seed": run.seed})

    def export(self, key: int, path: Path) -> Saved:
        """Write a small file in place of the weights of a member."""
        run, epoch, _ = self._members[key]
        return self._write(path, {"simulated": True, "epoch": epoch, "seed": run.seed})

    def picture(self, key: int, path: Path) -> Path | None:  # noqa: ARG002 - as every kind of students
        """None: nothing was trained, so there is nothing to draw."""
        return None

    def _write(self, path: Path, values: dict[str, object]) -> Saved:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps(values).encode()
        part = path.with_suffix(".part")
        try:
            part.write_bytes(data)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return Saved(path, hashlib.sha256(data).hexdigest(), len(data))
