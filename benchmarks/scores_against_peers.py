"""Our scores beside those of MONAI, MedPy and torchmetrics, on 200 random and 20 degenerate pairs of masks.

In a venv of its own, since the product needs none of them:

    python3 -m venv peers
    peers/bin/pip install torch==2.13.0 numpy==2.4.6 scipy==1.17.1 monai==1.6.1 MedPy==0.5.2 torchmetrics==1.9.0
    peers/bin/python -m benchmarks.scores_against_peers
    peers/bin/python -m benchmarks.scores_against_peers --labels Task04_Hippocampus/labelsTr   # with nibabel

Prints, in Markdown, the largest difference by score and library over the cases in which truth and prediction both have
and both lack the class (exit code 1 where it is beyond rounding), and what each gives where a mask is empty or full.
With `--labels` the pairs are real label files, each beside itself moved by a voxel with one in fifty labels wrong, in
millimetres. With `--freeze` it writes what the libraries gave for a few pairs to
tests/trainer/evaluation/peer_scores.json. Takes half a minute. Pixels that are ignored are in neither mask for
surfaces; for overlap MONAI and MedPy get what is left without them.
"""

import argparse
import json
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.mask_pairs import IGNORED, Pair, degenerate, drawn, every
from models.torchvision_guard import make_importable
from trainer.evaluation.confusion import confusion
from trainer.evaluation.overlap import BASIC, case_scores, pixel_counts
from trainer.evaluation.surface import surface_scores

TOLERANCE = 1.5
"""Of surface Dice, in pixels or mm."""
ROUNDING = {"MONAI": 2e-5, "MedPy": 1e-12, "torchmetrics": 2e-6}
"""MONAI and torchmetrics compute in float32; lengths are compared by their share."""
FROZEN = Path(__file__).parents[1] / "tests" / "trainer" / "evaluation" / "peer_scores.json"
FROZEN_DRAWN = (0, 1, 2, 4, 12)
FROZEN_SCORES = frozenset({"hd95", "hd95_larger", "asd", "surface_dice", "dice", "iou"})
PACKAGES = ("monai", "MedPy", "torchmetrics", "torch", "numpy", "scipy")
RULES = {
    "both-empty": "both empty",
    "truth-empty": "truth empty",
    "prediction-empty": "prediction empty",
    "both-full": "both full",
}

Values = dict[tuple[str, str], float]
"""(score, library) -> value; nan, inf or a missing entry as the library has it."""
Mask = NDArray[np.bool_]


def ours(pair: Pair) -> dict[str, float]:
    """Every score of a pair by its name; classes are called by their numbers."""
    names = [str(label) for label in range(1, pair.classes)]
    truth, predicted = (torch.from_numpy(labels)[None] for labels in (pair.truth, pair.predicted))
    counts = pixel_counts(confusion(predicted, truth, pair.classes).numpy()).of(slice(1, None))
    overlap = {name: float(values[0]) for name, values in case_scores(counts, names).items()}
    surface = surface_scores(pair.predicted, pair.truth, names, tolerance=TOLERANCE, spacing=pair.spacing)
    return overlap | surface


def peers(pair: Pair, label: int) -> Values:
    """What the libraries give for one class."""
    true, predicted = pair.masks(label)
    valid = pair.truth != IGNORED
    return {
        **_monai(true, predicted, valid, pair.spacing),
        **_medpy(true, predicted, valid, pair.spacing),
        **_torchmetrics(pair, label),
    }


def _monai(true: Mask, predicted: Mask, valid: Mask, spacing: tuple[float, ...] | None) -> Values:
    metrics = import_module("monai.metrics")
    kept = [torch.from_numpy(mask[valid])[None, None].float() for mask in (predicted, true)]
    whole = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
    values: Values = {}
    if valid.any():
        values["dice_of_present", "MONAI"] = float(metrics.compute_dice(*kept))
        values["dice", "MONAI"] = float(metrics.compute_dice(*kept, ignore_empty=False))
        values["iou_of_present", "MONAI"] = float(metrics.compute_iou(*kept))
        values["iou", "MONAI"] = float(metrics.compute_iou(*kept, ignore_empty=False))
        matrix = metrics.get_confusion_matrix(*kept)
        for name in ("precision", "recall", "specificity", "accuracy", "f1"):
            measured = metrics.compute_confusion_matrix_metric({"f1": "f1 score"}.get(name, name), matrix)
            values[name, "MONAI"] = float(measured)
    lengths = {"include_background": True, "spacing": spacing}
    values["hd95_larger", "MONAI"] = float(metrics.compute_hausdorff_distance(*whole, percentile=95, **lengths))
    values["asd", "MONAI"] = float(metrics.compute_average_surface_distance(*whole, symmetric=True, **lengths))
    values["surface_dice", "MONAI"] = float(metrics.compute_surface_dice(*whole, [TOLERANCE], **lengths))
    return values


def _medpy(true: Mask, predicted: Mask, valid: Mask, spacing: tuple[float, ...] | None) -> Values:
    binary = import_module("medpy.metric.binary")
    values: Values = {}
    for name, function in {"dice": "dc", "iou": "jc"}.items():
        values[name, "MedPy"] = _or_error(lambda f=function: getattr(binary, f)(predicted[valid], true[valid]))
    for name in ("precision", "recall", "specificity"):
        values[name, "MedPy"] = _or_error(lambda f=name: getattr(binary, f)(predicted[valid], true[valid]))
    for name, function in {"hd95": "hd95", "asd": "assd"}.items():
        values[name, "MedPy"] = _or_error(lambda f=function: getattr(binary, f)(predicted, true, spacing))
    return values


def _torchmetrics(pair: Pair, label: int) -> Values:
    make_importable()
    metrics = import_module("torchmetrics.functional.classification")
    truth, predicted = (torch.from_numpy(labels)[None].long() for labels in (pair.truth, pair.predicted))
    arguments: dict[str, Any] = {"num_classes": pair.classes, "average": "none", "ignore_index": IGNORED}
    functions = {"f1": "f1_score", "dice": "f1_score", "iou": "jaccard_index"}
    return {
        (name, "torchmetrics"): float(
            getattr(metrics, f"multiclass_{functions.get(name, name)}")(predicted, truth, **arguments)[label]
        )
        for name in BASIC
        if name != "accuracy"  # of a class it is the recall there
    }


def _or_error(value: Callable[[], float]) -> float | Any:
    """The value, or the kind of error that came in its place."""
    try:
        return float(value())
    except Exception as error:  # noqa: BLE001 - which one it is, is the measurement
        return type(error).__name__


def ordinary(pair: Pair, label: int) -> bool:
    """Whether truth and prediction have the class and lack it, somewhere that is not ignored."""
    valid = pair.truth != IGNORED
    return all(mask.any() and not mask[valid].all() for mask in pair.masks(label))


def labelled(folder: Path) -> Iterator[Pair]:
    """Real label files (.nii, .nii.gz), each beside itself moved by a voxel along each axis, with some labels wrong."""
    nibabel = import_module("nibabel")
    for number, path in enumerate(sorted(folder.glob("*.nii*"))):
        image = nibabel.load(path)
        truth = np.asarray(image.dataobj).astype(np.uint8)
        rng, classes = np.random.default_rng(number), int(truth.max()) + 1
        predicted = np.roll(truth, (1, -1, 1), axis=(0, 1, 2))
        wrong = rng.random(truth.shape) < 0.02
        predicted[wrong] = rng.integers(0, classes, int(wrong.sum()))
        spacing = tuple(float(length) for length in image.header.get_zooms()[:3])
        yield Pair(path.name, truth, predicted, classes, spacing)


def compared(pairs: Iterable[Pair]) -> tuple[Mapping[tuple[str, str], tuple[int, float]], list[str]]:
    """By score and library: classes compared and the largest difference; and a line for each beyond rounding."""
    sums: dict[tuple[str, str], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    beyond = []
    for pair in pairs:
        own = ours(pair)
        for label in range(1, pair.classes):
            if not ordinary(pair, label):
                continue
            for (name, library), value in peers(pair, label).items():
                gap = abs(own[f"{name}.{label}"] - value) / max(1.0, abs(value))
                count, largest = sums[name, library]
                sums[name, library] = count + 1, max(largest, gap)
                if not gap <= ROUNDING[library]:
                    beyond.append(f"{pair.name}, class {label}, {name}: {own[f'{name}.{label}']}, {library} {value}")
    return sums, beyond


def rules() -> Iterator[str]:
    """A Markdown table of what is given where a mask is empty."""
    cases = {pair.name: pair for pair in degenerate()}
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in RULES:
        own, other = ours(cases[name]), peers(cases[name], 1)
        scores = dict.fromkeys(score for score, _ in other)
        for score in scores:
            rows[score, "ours"].append(_shown(own[f"{score}.1"]))
        for (score, library), value in other.items():
            rows[score, library].append(_shown(value))
    yield f"| score | of | {' | '.join(RULES.values())} |"
    yield f"|---|---|{'---|' * len(RULES)}"
    for (score, library), values in sorted(rows.items(), key=lambda row: (row[0][0], row[0][1] != "ours", row[0][1])):
        yield f"| `{score}` | {library} | {' | '.join(values)} |"


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else "nan" if math.isnan(value) else f"{value:.4g}"


def frozen() -> dict[str, Any]:
    """What the libraries gave for a few pairs."""
    chosen = [*degenerate(), *(pair for number, pair in enumerate(drawn()) if number in FROZEN_DRAWN)]
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "tolerance": TOLERANCE,
        "pairs": {
            pair.name: {
                "digest": pair.digest(),
                "classes": {
                    str(label): {
                        f"{library} {name}": value
                        for (name, library), value in peers(pair, label).items()
                        if name in FROZEN_SCORES and library != "torchmetrics"
                    }
                    for label in range(1, pair.classes)
                    if ordinary(pair, label)
                },
            }
            for pair in chosen
            if any(ordinary(pair, label) for label in range(1, pair.classes))
        },
    }


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description="our scores beside MONAI's, MedPy's and torchmetrics'")
    parser.add_argument("--freeze", action="store_true", help=f"write {FROZEN.name} for the tests")
    parser.add_argument("--labels", type=Path, help="a folder of label files in place of drawn pairs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # MONAI and torchmetrics warn of each empty mask
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES), end="\n\n")
    sums, beyond = compared(every() if options.labels is None else labelled(options.labels))
    print("| score | library | classes compared | largest difference |\n|---|---|---|---|")
    for (name, library), (count, largest) in sorted(sums.items()):
        print(f"| `{name}` | {library} | {count} | {largest:.1e} |")
    print("", *(rules() if options.labels is None else ()), *beyond[:10], sep="\n")
    if options.freeze:
        FROZEN.write_text(json.dumps(frozen(), indent=1).replace("\n     ", " ") + "\n")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
