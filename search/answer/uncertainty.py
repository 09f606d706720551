"""The uncertainty of a mean over images and seeds, where both the images' groups and the seeds are samples.

Every seed is scored on every image, so the two are crossed: a difference has a part that belongs to the seed, one that
belongs to the group (patient, sequence) and one of both. The variance of the mean is V_seeds + V_groups - V_both, the
two-way estimate of Cameron, Gelbach and Miller (2011, eq. 2.12), each part with its small-sample factor; the interval
is Student's with Satterthwaite's degrees of freedom (1946, eq. 17). A bootstrap over groups and seeds (Owen and Eckles
2012) counts what belongs to one seed and one group several times and, with five seeds, what belongs to the seeds too
little: too wide or too narrow, by which of them is larger (`benchmarks/coverage.py` has both).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST_GROUPS = 10
"""Below that many groups, no interval: a variance of a handful of patients is a guess."""
LEAST_SEEDS = 2
FEW_SEEDS = 5
"""Below that, an interval leans on a variance of two to four numbers."""


@dataclass(frozen=True)
class Estimate:
    """A mean with what is known of its error."""

    value: float
    error: float | None
    """Standard error; None where it cannot be estimated, and `reason` says why."""
    freedom: float
    """Degrees of freedom of the error."""
    images: int
    groups: int
    seeds: int
    reason: str | None = None

    def interval(
        self, confidence: float, within: tuple[float, float] = (-math.inf, math.inf)
    ) -> tuple[float, float] | None:
        """Two-sided; None where there is no error.

        within: where the true mean lies for sure, such as 0 to 1 for a share. What is cut off there held it never, so
        that the interval covers it as often as before.
        """
        if self.error is None:
            return None
        if self.error == 0:
            return self.value, self.value
        from scipy.stats import t

        half = float(t.ppf((1 + confidence) / 2, self.freedom)) * self.error
        return max(self.value - half, within[0]), min(self.value + half, within[1])

    def above(self, bound: float) -> float | None:
        """One-sided p of a true mean of at most `bound`; None where there is no error."""
        if self.error is None:
            return None
        if self.error == 0:
            return 0.0 if self.value > bound else 1.0
        from scipy.stats import t

        return float(t.sf((self.value - bound) / self.error, self.freedom))

    def two_sided(self) -> float | None:
        """Two-sided p of a true mean of zero; None where there is no error. A mean of zero that never varies has 1."""
        if self.error == 0 and self.value == 0:
            return 1.0
        p = self.above(0.0)
        return None if p is None else min(1.0, 2 * min(p, 1 - p))


def estimate(values: Floats, groups: tuple[str, ...]) -> Estimate:
    """The mean of values (seeds, images), every image alike, with the error over seeds and groups.

    groups: one name an image. A column with a nan is left out for all seeds. Raises ValueError where no column is left.
    """
    known = np.isfinite(values).all(axis=0)
    values = values[:, known]
    names, index = np.unique(np.asarray(groups, dtype=object)[known].astype(str), return_inverse=True)
    seeds, images = values.shape
    if not images or not seeds:
        raise ValueError("no image has a value for every seed")
    value = float(values.mean())
    reason = None
    if len(names) < LEAST_GROUPS:
        reason = f"{len(names)} groups are fewer than {LEAST_GROUPS}"
    elif seeds < LEAST_SEEDS:
        reason = f"{seeds} seed is fewer than {LEAST_SEEDS}"
    if reason is not None:
        return Estimate(value, None, 0.0, images, len(names), seeds, reason)
    error, freedom = _error(values, index, len(names))
    return Estimate(value, error, freedom, images, len(names), seeds)


def _error(values: Floats, index: NDArray[np.intp], count: int) -> tuple[float, float]:
    """Standard error of the mean and its degrees of freedom."""
    seeds, images = values.shape
    centred = values - values.mean()
    cells = np.zeros((seeds, count))
    np.add.at(cells.T, index, centred.T)
    cells /= images  # each group's share of the mean's deviation, by seed
    share = np.bincount(index, minlength=count) / images
    small = count / (count - 1), seeds / (seeds - 1)
    by_seed, by_group = cells.sum(axis=1), cells.mean(axis=0)
    rest = cells - by_seed[:, None] * share - by_group
    v_seeds = small[1] * float((by_seed**2).sum()) / seeds**2
    v_groups = small[0] * float((by_group**2).sum())
    v_both = small[0] * small[1] * float((rest**2).sum()) / seeds**2
    variance = max(v_seeds + v_groups - v_both, v_seeds, v_groups)
    if variance <= 0:
        return 0.0, math.inf
    # Groups of unequal size carry the freedom of fewer equal ones (Kish's effective number).
    effective = 1 / float((share**2).sum())
    parts = (v_seeds**2 / (seeds - 1), v_groups**2 / max(effective - 1, 1.0))
    return math.sqrt(variance), variance**2 / sum(parts)


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected over their family (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected
