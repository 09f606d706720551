"""What the rule for the threshold does: how often it leaves 0.5, and what that gives on new images.

Networks are made up whose Dice at every threshold is known exactly. A pixel's log-odds are normal, about one mean in
the foreground and another in the background, so that an image's true and false positive rates follow from the
threshold. Images differ in the share of their foreground, in how well it can be told from the rest, and in how much
too sure or too unsure the network is of it; a network has a shift of its own that all its images share.
`trainer.evaluation.per_image.kept_threshold` chooses by so many validation images; its choice is then scored on
new ones, beside 0.5 kept always and beside the best on validation taken always.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.special import ndtr

from search.answer.uncertainty import Floats
from trainer.evaluation.threshold import GRID, HALF, kept_threshold

TEST_IMAGES = 2000
"""By which a choice is judged: so many that chance has no say."""
VALIDATION_IMAGES = (8, 20, 50, 200)


@dataclass(frozen=True)
class Networks:
    """What networks are drawn from. Log-odds are in units of the pixels' deviation."""

    shift: float
    """What is added to the log-odds of every pixel: too much foreground above 0, too little below."""
    shift_deviation: float = 0.2
    """Between networks, such as seeds of one run."""
    image_deviation: float = 0.6
    """Of an image's own shift."""
    separation: float = 2.0
    """Mean log-odds of the foreground; those of the background are as far below 0."""
    separation_deviation: float = 0.7


def dice_of_images(draw: Generator, networks: Networks, shift: float, images: int) -> Floats:
    """(images, thresholds): Dice of each image at each threshold of GRID."""
    share = np.clip(np.exp(draw.normal(np.log(0.08), 0.8, (images, 1))), 0.005, 0.6)
    away = shift + draw.normal(0.0, networks.image_deviation, (images, 1))
    apart = draw.normal(networks.separation, networks.separation_deviation, (images, 1))
    edges = np.log(np.asarray(GRID) / (1.0 - np.asarray(GRID)))
    right = ndtr(apart + away - edges) * share
    wrong = ndtr(-apart + away - edges) * (1.0 - share)
    dice: Floats = 2.0 * right / (share + right + wrong)
    return dice


def rows(networks: dict[str, Networks], count: int, seed: int) -> Iterator[str]:
    """Lines of a Markdown table, `count` networks a row."""
    yield (
        "| networks | validation images | leave 0.5 | gain of the rule | of the best on validation "
        "| of the best there is | worse than 0.5 by over 0.002: rule | best on validation |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for label, kind in networks.items():
        draw = np.random.default_rng(seed)
        for images in VALIDATION_IMAGES:
            results = np.asarray([_one(draw, kind, images) for _ in range(count)])
            left, ruled, best, most = results.T
            yield (
                f"| {label} | {images} | {left.mean():.0%} "
                f"| {ruled.mean():+.4f} | {best.mean():+.4f} | {most.mean():+.4f} "
                f"| {(ruled < -0.002).mean():.0%} | {(best < -0.002).mean():.0%} |"
            )


def _one(draw: Generator, kind: Networks, images: int) -> tuple[float, float, float, float]:
    """Whether 0.5 was left, and the gain on new images of the rule, of the best on validation, and of the best."""
    shift = float(draw.normal(kind.shift, kind.shift_deviation))
    seen, new = dice_of_images(draw, kind, shift, images), dice_of_images(draw, kind, shift, TEST_IMAGES).mean(axis=0)
    kept = GRID.index(kept_threshold(seen))
    means = seen.mean(axis=0)
    best = max(range(len(GRID)), key=lambda i: (means[i], -abs(GRID[i] - 0.5)))
    gains = new - new[HALF]
    return float(kept != HALF), float(gains[kept]), float(gains[best]), float(gains.max())


KINDS = {
    "0.5 is nearly the best": Networks(-0.65, 0.1),
    "0.5 is somewhat off": Networks(-0.4),
    "0.5 is far off": Networks(0.1),
    "short trainings, 0.5 is nearly the best": Networks(-0.6, 0.1, 1.0, 1.3),
    "short trainings, 0.5 is off": Networks(-0.2, 0.3, 1.0, 1.3),
}
"""Networks by what 0.5 is worth to them."""
