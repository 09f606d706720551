"""What a trained network does on each image, at native size: scores, surfaces, lesions, and whether it can be believed.

Slices of a volume are one row together, as `trainer.evaluation.by_case` has it; so has what data sets of more than two
classes are measured by. Nothing is judged here. The threshold of the foreground's probability is 0.5, or one that
validation shows to be better; of more than two classes a pixel has the likeliest, and there is no threshold. Test
rows and sources that no split names are read with the opening that the caller recorded. Torch is imported where a
network runs.
"""

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.config import DataConfig, Precision, RunConfig
from trainer.data.classes import dims_of
from trainer.data.dataset import DataSet, Opening, Part, Pixels, by_threshold, cases_of
from trainer.evaluation.by_case import CaseRows, Row, lesions
from trainer.evaluation.confusion import IGNORE
from trainer.evaluation.metrics import SCORES, validate
from trainer.evaluation.overlap import PixelCounts
from trainer.evaluation.surface import diagonal, hd95, missed_as_diagonal, surface_distances
from trainer.evaluation.threshold import ThresholdCounts, kept_threshold, log_odds, margin
from trainer.reports import PerImageResult, Pulse

if TYPE_CHECKING:
    from torch import Tensor

    from models.output import Segmenter
    from trainer.distributed.ranks import Ranks
    from trainer.evaluation.calibration import Calibration
    from trainer.failures import LocalFailure

COLUMNS = (
    "dice", "iou", "precision", "recall", "hd95", "hd95_missed_as_diagonal", "brier", "area", "polyps", "missed",
    "false_positives",
)  # fmt: skip
"""What is measured of each image of two classes; see `image_columns`."""
_AHEAD = 16
"""Images that wait to be measured on the host; each holds its probabilities at native size."""

T = TypeVar("T")


class Place(NamedTuple):
    """A part of some data under the name that it has in what is measured."""

    name: str
    data: DataSet
    part: Part
    opening: Opening | None


@dataclass(frozen=True)
class FinalEvaluation:
    """What is read once a run is over: test rows, and sources that no split names."""

    opening: Opening
    cache: Path
    unseen: tuple[str, ...] = ()
    """Folders below the data root."""
    masks_pattern: str | None = None
    """How their masks are named."""
    _sets: dict[tuple[str, str], DataSet] = field(default_factory=dict)

    def places(self, config: DataConfig, data: DataSet) -> list[Place]:
        """What is examined of a run's data. Raises DataError where an unseen source cannot be used."""
        from trainer.data.sets.pictures import open_unseen

        places = [Place("validation", data, "validation", None), Place("test", data, "test", self.opening)]
        for name in self.unseen:
            key = (config.model_dump_json(), name)
            if key not in self._sets:
                self._sets[key] = open_unseen(config, name, cache=self.cache, masks_pattern=self.masks_pattern)
            places.append(Place(name, self._sets[key], "test", self.opening))
        return places


class _Failed(Exception):
    """A step that failed on some rank."""

    def __init__(self, local_failure: "LocalFailure") -> None:
        super().__init__(local_failure.message)
        self.fault = local_failure


def scored_units(pulse: Pulse | None, what: str, config: DataConfig) -> Callable[[int, int], None] | None:
    """What `validate` tells of its images, or of the windows of volumes; None where nobody hears it."""
    if pulse is None:
        return None
    return partial(pulse, f"{what}, {'window' if dims_of(config) == 3 else 'image'}")


def evaluate_per_image(
    network: "Segmenter",
    run: RunConfig,
    data: DataSet,
    examination: FinalEvaluation,
    ranks: "Ranks",
    pulse: Pulse | None = None,
) -> "tuple[PerImageResult, ...] | LocalFailure":
    """Choose the threshold, then measure every part. Every rank calls it; all get the same, or the same fault.

    pulse: hears on the lead how many images are done. Raises Stopped on all of them where one was asked to stop,
    between two images.
    """
    from trainer.failures import LocalFailure, local_failure

    def attempt(work: "Callable[[Ranks], T]") -> T:
        result = ranks.attempt(work, lambda error: local_failure(error, run))
        if isinstance(result, LocalFailure):
            raise _Failed(result)
        return result

    try:
        places = attempt(lambda _: examination.places(run.data, data))
        hears = partial(scored_units, pulse, config=run.data)
        choose = partial(
            chosen_thresholds, network, data, precision=run.precision, progress=hears("choosing the threshold")
        )
        chosen = by_threshold(data.classes, regions=data.regions is not None)
        thresholds = attempt(lambda ranks: choose(ranks=ranks)) if chosen else ()
        see = partial(measured, network, thresholds=thresholds, precision=run.precision)
        return tuple([attempt(partial(see, place, progress=hears(f"examining {place.name}"))) for place in places])
    except _Failed as failed:
        return failed.fault


def chosen_thresholds(
    network: "Segmenter",
    data: DataSet,
    *,
    ranks: "Ranks",
    precision: Precision,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, ...]:
    """0.5, or the threshold of GRID that `kept_threshold` puts in its place by the Dice of validation images, slices of
    a volume together; of regions one each, in their order.

    Every rank calls it; all get the same. Raises DataError for an empty part.
    """
    counts = ThresholdCounts(data, "validation", None, ranks.device)
    validate(network, data, "validation", ranks=ranks, precision=precision, keep=counts.keep, progress=progress)
    scores = counts.scores(ranks)
    return tuple(kept_threshold(scores[:, at]) for at in range(scores.shape[1]))


def measured(
    network: "Segmenter",
    place: Place,
    ranks: "Ranks",
    *,
    thresholds: tuple[float, ...],
    precision: Precision,
    progress: Callable[[int, int], None] | None = None,
) -> PerImageResult:
    """Every column of a part: the ranks share its images. Every rank calls it; all get the same.

    thresholds: of the foreground's probability, or of each region's; none for more than two classes. Raises DataError.
    """
    from trainer.evaluation.calibration import Calibration

    name, data, part, opening = place
    calibration = Calibration(data, part, ranks, opening)
    see = partial(validate, network, data, part, ranks=ranks, precision=precision, opening=opening, progress=progress)
    samples = data.samples(part, opening)
    if thresholds and data.regions is None and cases_of(samples) is None:
        rows, names = _by_image(place, calibration, see, ranks, thresholds[0]), None
    else:
        by_case = CaseRows(data, part, opening, thresholds=thresholds)

        def hear(index: int, logits: "Tensor") -> None:
            calibration.hear(index, logits)
            by_case.keep(index, logits)

        see(keep=hear)
        rows, names, samples = by_case.rows(ranks), by_case.names, by_case.cases
    return PerImageResult(
        part=name,
        threshold=round(sum(thresholds) / len(thresholds), 6) if thresholds else None,
        images=tuple(names or [sample.image or sample.name for sample in samples]),
        sources=tuple(sample.source for sample in samples),
        groups=tuple(sample.group for sample in samples),
        columns={column: tuple(row[column] for row in rows) for column in (rows[0] if rows else COLUMNS)},
        calibration=calibration.table(),
        calibration_positive=calibration.positive_table(),
        threshold_rule="likeliest" if not thresholds else "gain" if data.regions is None else "gain-by-region",
        length_unit="mm" if names is not None and any(sample.spacing is not None for sample in samples) else "px",
        region_thresholds=thresholds if len(set(thresholds)) > 1 else (),
    )


def _by_image(
    place: Place, calibration: "Calibration", see: Callable[..., object], ranks: "Ranks", threshold: float
) -> list[Row]:
    """COLUMNS of each image, the same on every rank, measured while the network goes on."""
    from trainer.data.streams.stream import threads

    _, data, part, opening = place
    with ThreadPoolExecutor(threads(ranks.world), thread_name_prefix="measure") as pool:
        rows: dict[int, Row] = {}
        waiting: deque[tuple[int, Future[Row]]] = deque()

        def settle(most: int) -> None:
            while len(waiting) > most:
                ranks.pause_point()
                index, row = waiting.popleft()
                rows[index] = row.result()

        def hear(index: int, logits: "Tensor") -> None:
            calibration.hear(index, logits)
            odds = margin(logits).cpu().numpy()
            truth = data.native_mask(part, index, opening)
            waiting.append((index, pool.submit(image_columns, odds, truth, threshold)))
            settle(_AHEAD)

        try:
            see(keep=hear)
            settle(0)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    every: dict[int, Row] = {}
    for of_rank in ranks.all_gather_unless_stopped(rows):
        every |= of_rank
    return [every[index] for index in range(len(every))]


def image_columns(odds: NDArray[np.float32], truth: Pixels, threshold: float) -> dict[str, float]:
    """COLUMNS of one image from the log-odds of its foreground and its labels, both (height, width); 255 is left out.

    dice, iou, precision, recall: as `trainer.evaluation.overlap` has them, of all foreground classes together. hd95:
    pixels, nan where truth or prediction is empty, so that a mean of it speaks of what was found alone.
    hd95_missed_as_diagonal: the same, and where one of them is empty the image's diagonal, where both are 0. brier:
    mean of (probability - truth)^2. area: share of the pixels that are foreground. polyps: connected parts of the
    truth; missed: those of them without a predicted pixel; false_positives: connected parts of the prediction without a
    true pixel. Pixels that touch at a corner are connected.
    """
    from scipy.special import expit

    valid = truth != IGNORE
    true, predicted = (truth > 0) & valid, (odds > log_odds(threshold)) & valid
    tp, fp = float((true & predicted).sum()), float((predicted & ~true).sum())
    fn, pixels = float((true & ~predicted).sum()), float(valid.sum())
    counts = PixelCounts(*(np.array([[value]]) for value in (tp, fp, fn, pixels - tp - fp - fn)))
    row = {name: float(SCORES[name](counts)[0, 0]) for name in ("dice", "iou", "precision", "recall")}
    distances = surface_distances(true, predicted)
    row["hd95"] = hd95(distances)
    row["hd95_missed_as_diagonal"] = missed_as_diagonal(row["hd95"], distances, diagonal(truth.shape))
    error = (expit(odds.astype(np.float64)) - true)[valid]
    row["brier"] = float(np.square(error).mean()) if pixels else math.nan
    row["area"] = (tp + fn) / pixels if pixels else math.nan
    return row | lesions(true, predicted)
