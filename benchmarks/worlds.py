"""What a trial would have scored, without training: recorded curves of a real small search, and a formula."""

import json
import math
import random
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from benchmarks.record_curves import CURVES, STUDY, drawn
from search.execution.simulated_students import Curves
from search.spec.arms import Arm
from search.spec.load import load
from search.spec.space import FloatRange, Scalar

WIDTH = "student.width"


class World(Protocol):
    """A space of trials with known curves."""

    name: str
    arm: Arm

    def curve(self, params: Mapping[str, Scalar]) -> Sequence[float]:
        """Scores by epoch of the trial with these parameters."""

    def best(self, width: Scalar | None = None) -> float:
        """The best score of N full-budget trials with random parameters, of one width or of all."""


class Recorded:
    """Trials of a real search; a point of the space has the curve of the recorded trial of its width that is nearest.

    Nearest by the sum of squares of the parameters, each brought to 0..1 over its range on a log scale.
    """

    def __init__(self, path: Path = CURVES) -> None:
        self.name = "recorded curves"
        self.arm = load(STUDY, [], name=None).arms[0]
        self._trials = json.loads(path.read_text())
        self._places = [self._place(trial["params"]) for trial in self._trials]

    def _place(self, params: Mapping[str, Scalar]) -> list[float]:
        ranges = [p for p in self.arm.space if isinstance(p, FloatRange)]
        return [math.log(float(params[p.name]) / p.low) / math.log(p.high / p.low) for p in ranges]

    def curve(self, params: Mapping[str, Scalar]) -> Sequence[float]:
        """See `World`."""
        place = self._place(params)
        distances = [
            (sum((a - b) ** 2 for a, b in zip(place, other, strict=True)), number)
            for number, (trial, other) in enumerate(zip(self._trials, self._places, strict=True))
            if trial["params"][WIDTH] == params[WIDTH]
        ]
        curve: Sequence[float] = self._trials[min(distances)[1]]["scores"]
        return curve

    def best(self, width: Scalar | None = None) -> float:
        """See `World`; N is the number of recorded trials."""
        return max(float(max(t["scores"])) for t in self._trials if width is None or t["params"][WIDTH] == width)


class Formula:
    """The curves of `search simulate`, over the same space with four widths and 50 epochs."""

    def __init__(self, trials: int = 60) -> None:
        self.name = "formula"
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(STUDY.read_text().replace("choices = [4, 8]", "choices = [8, 16, 24, 32]"))
            file.flush()
            self.arm = load(Path(file.name), ["run.epochs=50"], name="formula").arms[0]
        self._curves = Curves()
        self._random = trials

    def curve(self, params: Mapping[str, Scalar]) -> Sequence[float]:
        """See `World`."""
        run = self.arm.resolve(params)
        return [self._curves.score(run, epoch) for epoch in range(1, run.epochs + 1)]

    @cache  # noqa: B019 - two worlds live as long as the program
    def best(self, width: Scalar | None = None) -> float:
        """See `World`; as many random trials of each width."""
        draw = random.Random(0)  # noqa: S311 - no secret
        widths = widths_of(self.arm) if width is None else [width]
        points = [drawn(self.arm, draw, int(w)) for w in widths for _ in range(self._random)]
        return max(max(self.curve(point)) for point in points)


def widths_of(arm: Arm) -> list[Scalar]:
    """The choices along the front."""
    return [choice for p in arm.space if p.path == WIDTH for choice in p.probes()]
