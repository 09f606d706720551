"""`python -m trainer evaluate`: what weights score on a part of the data, with torchmetrics as a second opinion."""

import csv
import io
import json
import math
import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.atomic_files import writable
from trainer.cli.progress import Counting, counted_calls
from trainer.config import RunConfig
from trainer.data.classes import opening_work
from trainer.data.dataset import by_threshold, foreground_names
from trainer.distributed.launch import device
from trainer.errors import UserError
from trainer.package.inference import DEFAULT_THRESHOLD, WEIGHTS
from trainer.run_file import read

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.checkpoint import Ready
    from trainer.data.dataset import DataSet, Opening, Part
    from trainer.distributed.ranks import Ranks
    from trainer.evaluation.by_case import CaseRows
    from trainer.evaluation.metrics import Scores

IGNORE = 255
BY_CLASS = ("dice", "iou", "precision", "recall")
"""Scores that the table of classes has."""
AGREED = 1e-4
"""Largest difference from torchmetrics, which adds in float32, that rounding explains."""


def main(args: Namespace) -> int:
    """Print the scores; write them where asked. Raises UserError, CheckpointError, DataError."""
    import torch

    from trainer.checkpoint import ready
    from trainer.data import open_data, read_openings, record_opening
    from trainer.distributed.ranks import Ranks
    from trainer.evaluation.metrics import validate
    from trainer.teacher.assessment import alike, overlap_text, seen

    for path in (args.per_image, args.json):
        writable(path)
    if args.weights.is_dir():
        args.weights /= WEIGHTS  # of a package
    ranks = Ranks(device(args.device))
    made = ready(args.weights, device=ranks.device)
    run = run_of(args, made)
    part: Part = "test" if args.open_test else "validation"
    data = open_data(run.data, cache=args.cache, progress=Counting(opening_work(run.data)))
    opening = None
    if args.open_test:
        folder = args.openings or args.weights.parent
        before = len(read_openings(folder))
        purpose = f"evaluate {args.weights.name}, sha256 {made.file.sha256}, data {data.content_hash}"
        opening = record_opening(folder, purpose)
        images = len(data.samples("test", opening))
        print(f"opening the test rows ({images} images): recorded in {folder}, opened {before} times before")
    second = None if args.no_second_opinion else SecondOpinion(data, part, opening)
    by_case = _case_rows(data, part, opening) if args.per_image is not None else None
    with torch.no_grad():
        scores = validate(
            made.network,
            data,
            part,
            ranks=ranks,
            precision=args.precision or run.precision,
            batch_size=args.batch_size,
            opening=opening,
            keep=counted_calls(
                "scoring",
                _each_of(second.hear if second else None, by_case.keep if by_case else None),
                len(data.samples(part, opening)),
            ),
        )
    document = facts(args.weights, made.file.sha256, part, data, scores)
    overlap = {"identical": seen(made.file, data), "near_identical": alike(made.file, data)}
    document["trained_on"] = {how: None if counts is None else counts[part] for how, counts in overlap.items()}
    agrees = True
    if second:
        document["torchmetrics"], agrees = second.compare(scores)
    if args.per_image is not None:
        _write(args.per_image, per_case(by_case, ranks) if by_case else per_image(data, part, opening, scores))
    if args.json is not None:
        _write(args.json, json.dumps(document, indent=1, sort_keys=True) + "\n")
    _print(document, scores)
    print(f"{args.weights}  {overlap_text(*overlap.values())}")
    print(f"next: python -m trainer predict {shlex.quote(str(args.weights))} FOLDER -o masks")
    return 0 if agrees else 1


def _each_of(*keepers: "Callable[[int, Tensor], None] | None") -> "Callable[[int, Tensor], None]":
    """One that calls all that are there."""

    def keep(index: int, logits: "Tensor") -> None:
        for each in filter(None, keepers):
            each(index, logits)

    return keep


def _case_rows(data: "DataSet", part: "Part", opening: "Opening | None") -> "CaseRows | None":
    """What measures cases where an image is not one, or where there are several foreground classes; else None."""
    from trainer.data.dataset import cases_of
    from trainer.evaluation.by_case import CaseRows

    if data.classes == 2 and data.regions is None and cases_of(data.samples(part, opening)) is None:
        return None
    threshold = _threshold(data)
    return CaseRows(data, part, opening, thresholds=() if threshold is None else (threshold,))


def _threshold(data: "DataSet") -> float | None:
    """What a probability has to be above; None where each pixel is of its likeliest class."""
    return DEFAULT_THRESHOLD if by_threshold(data.classes, regions=data.regions is not None) else None


def run_of(args: Namespace, made: "Ready") -> RunConfig:
    """The run whose data and teacher count: that of --data FILE, else the weights' own. Raises UserError, also where
    the network does not take pictures of that size, and CheckpointError where it has other classes or channels."""
    from trainer.checkpoint import refuse_other_data
    from trainer.dry_run import refuse_other_size

    if args.data is not None:
        run = read(args.data, sets=args.set).run
        refuse_other_data(made, run.data)
        refuse_other_size(made, run.data)
        return run
    if not args.set:
        refuse_other_data(made, made.run.data)
        return made.run
    raise UserError(f"--set {args.set[0]}: needs --data FILE, the study or run that it changes")


def facts(path: Path, sha256: str, part: str, data: "DataSet", scores: "Scores") -> dict[str, Any]:
    """What --json writes."""
    document: dict[str, Any] = {
        "weights": str(path),
        "sha256": sha256,
        "part": part,
        "images": len(scores.images["dice"]),
        "data": data.content_hash,
        "size": data.config.size,
        "fit": data.config.fit,
        "threshold": _threshold(data),
        "scores": scores.means,
        "deviation": {name: float(np.std(values)) for name, values in (scores.cases or scores.images).items()},
        **({"cases": len(scores.cases["dice"])} if scores.cases else {}),
    }
    names = foreground_names(data)
    if len(names) > 1:
        document["regions" if data.regions else "classes"] = {
            name: {score: scores.means[f"{score}.{name}"] for score in BY_CLASS} for name in names
        }
    return document


def per_image(data: "DataSet", part: "Part", opening: "Opening | None", scores: "Scores") -> str:
    """CSV: name, source, group and every score of every image; scores with all their figures."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "source", "group", *scores.images))
    for index, sample in enumerate(data.samples(part, opening)):
        values = [repr(float(column[index])) for column in scores.images.values()]
        writer.writerow((sample.name, sample.source, sample.group, *values))
    return text.getvalue()


def per_case(measured: "CaseRows", ranks: "Ranks") -> str:
    """CSV: name, source, group and every score of every case, surfaces too; nothing where a score has no value."""
    rows = measured.rows(ranks)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "source", "group", *(rows[0] if rows else ())))
    for name, sample, row in zip(measured.names, measured.cases, rows, strict=True):
        values = ["" if math.isnan(value) else repr(value) for value in row.values()]
        writer.writerow((name, sample.source, sample.group, *values))
    return text.getvalue()


class SecondOpinion:
    """torchmetrics on the same masks, as a `keep` of `trainer.evaluation.metrics.validate`.

    Single images are compared where truth and prediction both have every class, of more than two classes each class
    where both have it: conventions for empty masks differ.
    """

    def __init__(self, data: "DataSet", part: "Part", opening: "Opening | None") -> None:
        if find_spec("torchvision"):
            # torchmetrics imports it where it is installed.
            from models.torchvision_guard import make_importable

            make_importable()
        from torchmetrics.classification import MulticlassF1Score, MulticlassJaccardIndex

        self._data, self._part, self._opening = data, part, opening
        # Of regions each is asked about as two classes.
        self._classes = data.classes if data.regions is None else 2
        arguments: dict[str, Any] = {"num_classes": self._classes, "average": "macro", "ignore_index": IGNORE}
        self._pooled = {"mdice": MulticlassF1Score(**arguments), "miou": MulticlassJaccardIndex(**arguments)}
        self._images: dict[int, dict[str, float]] = {}

    def hear(self, index: int, logits: "Tensor") -> None:
        """Logits (classes, height, width) of an image at native size."""
        import torch

        truth = torch.from_numpy(self._data.native_mask(self._part, index, self._opening).copy()).long()
        regions, names = self._data.regions, self._data.class_names
        if regions is None:
            label = logits.argmax(0).cpu()
            for metric in self._pooled.values():
                metric.update(label[None], truth[None])
            values = self._measured(label, truth, names[1:])
        else:
            masks = zip(names, (logits > 0).long().cpu(), regions.targets(truth[None])[0].long(), strict=True)
            each = {name: self._measured(label, true, [name]) for name, label, true in masks}
            values = {f"{score}.{name}": value for name, known in each.items() for score, value in known.items()}
            if all(each.values()):
                scores = next(iter(each.values()))
                means = {score: sum(known[score] for known in each.values()) / len(each) for score in scores}
                values = means | (values if len(each) > 1 else {})
        if values:
            self._images[index] = values

    def _measured(self, label: "Tensor", truth: "Tensor", names: Sequence[str]) -> dict[str, float]:
        """Scores of labels (height, width) both, of several foreground classes also by their names."""
        import torch
        from torchmetrics.functional import classification as metrics

        valid, classes = truth != IGNORE, self._classes
        there = torch.stack([torch.bincount(each[valid], minlength=classes) > 0 for each in (label, truth)]).all(0)
        if not (there.all() if classes == 2 else there[1:].any()):
            return {}
        functions: dict[str, Callable[..., Tensor]] = {
            "dice": metrics.multiclass_f1_score,
            "iou": metrics.multiclass_jaccard_index,
            "precision": metrics.multiclass_precision,
            "recall": metrics.multiclass_recall,
            "specificity": metrics.multiclass_specificity,
        }
        arguments: dict[str, Any] = {"num_classes": classes, "average": "none", "ignore_index": IGNORE}
        values: dict[str, float] = {}
        for name, function in functions.items():
            by_class = function(label[None], truth[None], **arguments)[1:]
            if bool(there[1:].all()):
                values[name] = float(by_class.mean())
            if classes > 2:
                named = zip(names, by_class, there[1:], strict=True)
                values |= {f"{name}.{known}": float(value) for known, value, both in named if both}
        return values

    def compare(self, scores: "Scores") -> tuple[dict[str, float], bool]:
        """Largest difference by score with how many images were compared, and whether all is rounding."""
        differ = {
            name: abs(float(metric.compute()) - scores.means[name])
            for name, metric in self._pooled.items()
            if len(scores.images["dice"]) and self._data.regions is None
        }
        for index, values in self._images.items():
            for name, value in values.items():
                gap = abs(value - float(scores.images[name][index]))
                differ[name] = max(differ.get(name, 0.0), gap)
        return differ | {"images_compared": float(len(self._images))}, max(differ.values(), default=0.0) < AGREED


def _print(document: dict[str, Any], scores: "Scores") -> None:
    at = document["threshold"]
    above = "each region" if "regions" in document else "foreground"
    rule = "each pixel of its likeliest class" if at is None else f"{above} above threshold {at:g}"
    what, thing = ("cases", "slices") if "cases" in document else ("images", "images")
    of = f" of {document['cases']} cases" if "cases" in document else ""
    print(f"{document['weights']}  {document['part']}: {document['images']} {thing}{of} at native size, {rule}")
    for name, mean in scores.means.items():
        if "." in name:
            continue
        if name in scores.images:
            print(f"{name:12} {mean:.4f}   over {what}: deviation {document['deviation'][name]:.4f}")
        else:
            print(f"{name:12} {mean:.4f}   pooled{'' if 'regions' in document else ', with the background'}")
    by_name = document.get("classes", document.get("regions", {}))
    for line in class_table(by_name, scores.means, "region" if "regions" in document else "class"):
        print(line)
    second = dict(document.get("torchmetrics", {}))
    if second:
        images = int(second.pop("images_compared"))
        rest = document["images"] - images
        gap = max(second.values(), default=0.0)
        says = "agrees" if gap < AGREED else "DIFFERS"
        kind = "region" if "regions" in document else "class"
        each = f", each {kind} where truth and prediction have it" if by_name else ""
        compared = f"{images} {thing} compared{each}, {rest} with an empty mask not"
        print(f"torchmetrics {says}: by at most {gap:.1g} ({compared})")


def class_table(
    classes: Mapping[str, Mapping[str, float]], means: Mapping[str, float], kind: str = "class"
) -> list[str]:
    """A line a class with its scores, and their means over classes; nothing where there are two classes."""
    if not classes:
        return []
    width = max(len(name) for name in (*classes, "mean", kind))
    rows = {**classes, "mean": {name: means[name] for name in BY_CLASS}}
    head = f"{kind:{width}}  " + "  ".join(f"{name:>9}" for name in BY_CLASS)
    lines = [f"{name:{width}}  " + "  ".join(f"{row[score]:9.4f}" for score in BY_CLASS) for name, row in rows.items()]
    return [head, *lines]


def _write(path: Path, text: str) -> None:
    """Write beside and rename; `-` is stdout."""
    from trainer.checkpoint import write

    if str(path) == "-":
        print(text, end="")
    else:
        write(path, text.encode())
