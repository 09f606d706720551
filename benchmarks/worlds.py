"""What a trial would have scored, without training: recorded curves of real small searches, and two formulas.

Constants were set on the recorded curves of drawn pictures and on the formula of `search simulate`; those of Kvasir-SEG
are for setting them, too. Those of CVC-ClinicDB and the second formula are kept apart, for one last look that judges
what was set. What is not recorded yet says so.
"""

import math
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from benchmarks.record_curves import RECORDINGS, STUDY, WIDTH, drawn, read, widths_of
from search.execution.simulated_students import Curves
from search.spec.arms import Arm
from search.spec.load import load
from search.spec.space import FloatRange, Scalar
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.seeds import derive


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

    Nearest by the sum of squares of the parameters, each brought to 0..1 over its range on a log scale. Raises
    UserError where nothing was recorded.
    """

    def __init__(self, name: str = "blobs") -> None:
        recording = RECORDINGS[name]
        self.name = f"recorded curves of {recording.pictures or 'drawn pictures'}"
        self.arm = load(recording.study, [], name=None).arms[0]
        self.trials = list(read(recording.curves).values())
        if not self.trials:
            raise UserError(f"{recording.curves.name}: holds no trials; python -m benchmarks.record_curves {name}")
        self._places = [self._place(trial["params"]) for trial in self.trials]

    def _place(self, params: Mapping[str, Scalar]) -> list[float]:
        ranges = [p for p in self.arm.space if isinstance(p, FloatRange)]
        return [math.log(float(params[p.name]) / p.low) / math.log(p.high / p.low) for p in ranges]

    def curve(self, params: Mapping[str, Scalar]) -> Sequence[float]:
        """See `World`."""
        place = self._place(params)
        distances = [
            (sum((a - b) ** 2 for a, b in zip(place, other, strict=True)), number)
            for number, (trial, other) in enumerate(zip(self.trials, self._places, strict=True))
            if trial["params"][WIDTH] == params[WIDTH]
        ]
        curve: Sequence[float] = self.trials[min(distances)[1]]["scores"]
        return curve

    def best(self, width: Scalar | None = None) -> float:
        """See `World`; N is the number of recorded trials."""
        return max(float(max(t["scores"])) for t in self.trials if width is None or t["params"][WIDTH] == width)


class Formula:
    """The curves of `search simulate`, over the same space with four widths and 50 epochs."""

    def __init__(
        self, score: Callable[[RunConfig, int], float] | None = None, name: str = "formula", trials: int = 60
    ) -> None:
        self.name, self._random = name, trials
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(STUDY.read_text().replace("choices = [4, 8]", "choices = [8, 16, 24, 32]"))
            file.flush()
            self.arm = load(Path(file.name), ["run.epochs=50"], name="formula").arms[0]
        self._score = score or Curves().score

    def curve(self, params: Mapping[str, Scalar]) -> Sequence[float]:
        """See `World`."""
        run = self.arm.resolve(params)
        return [self._score(run, epoch) for epoch in range(1, run.epochs + 1)]

    @cache  # noqa: B019 - a few worlds live as long as the program
    def best(self, width: Scalar | None = None) -> float:
        """See `World`; as many random trials of each width."""
        draw = random.Random(0)  # noqa: S311 - no secret
        widths = widths_of(self.arm) if width is None else [width]
        points = [drawn(self.arm, draw, int(w)) for w in widths for _ in range(self._random)]
        return max(max(self.curve(point)) for point in points)


class SecondFormula:
    """Curves whose constants a seed draws: power laws in the epoch, in place of one exponential for all.

    A run ends the lower, the farther its rate, its temperature and its weight of KD lie from the best of its width, and
    the slower, the lower its rate: low rates are still rising at the end, high ones are flat early. So curves cross.
    """

    def __init__(self, seed: int) -> None:
        """seed: written down before any search was run on what it draws."""
        self._seed = seed
        draw = random.Random(seed)  # noqa: S311 - no secret
        self._top = draw.uniform(0.75, 0.95)
        self._width = draw.uniform(0.2, 0.6), draw.uniform(1.0, 4.0)
        self._rate = draw.uniform(-3.0, -1.6), draw.uniform(0.0, 0.4), draw.uniform(0.02, 0.08)
        self._temperature = draw.uniform(1.5, 7.0), draw.uniform(0.005, 0.03)
        self._weight = draw.uniform(0.3, 10.0), draw.uniform(0.005, 0.02)
        self._rise = draw.uniform(0.3, 0.6)
        self._power = draw.uniform(0.5, 1.0), draw.uniform(0.1, 0.3)
        self._noise = draw.uniform(0.003, 0.01)

    def __call__(self, run: RunConfig, epoch: int) -> float:
        """The score of an epoch (from 1), a function of the run alone."""
        width = math.log2(getattr(run.student, "width", 16) / 8)
        best, slope, bend = self._rate
        rate = math.log10(run.optim.lr) - best + slope * width
        end = self._top - self._width[0] / (8 * 2**width + self._width[1]) - bend * rate**2
        kl = run.losses.kl
        if kl is not None:
            end -= self._temperature[1] * math.log(kl.temperature / self._temperature[0]) ** 2
            end -= self._weight[1] * math.log10(max(kl.weight, 1e-6) / self._weight[0]) ** 2
        power = self._power[0] + self._power[1] * max(min(rate, 1.5), -1.5)
        key = f"{width} {run.optim.lr!r} {kl and (kl.temperature, kl.weight)!r}"
        noise = random.Random(derive(self._seed, key, epoch)).gauss(0.0, self._noise)  # noqa: S311 - no secret
        left = (epoch / run.epochs) ** -power - 1.0
        return min(1.0, max(0.0, end - self._rise * left / (run.epochs**power - 1.0) + noise))


WORLDS: dict[str, Callable[[], World]] = {
    "recorded": Recorded,
    "kvasir": lambda: Recorded("kvasir"),
    "formula": Formula,
    "clinicdb": lambda: Recorded("clinicdb"),
    "formula-2": lambda: Formula(SecondFormula(20261129), "second formula"),
    "formula-3": lambda: Formula(SecondFormula(20261130), "third formula"),
}
