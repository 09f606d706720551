"""The worst pictures: where the candidate fails on validation images, beside truth and teacher.

Test images are never drawn: the report may travel further than the data, and nothing is gained by looking at them.
"""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from search.answer.document import SEARCH_THRESHOLD
from search.report.content.document import Picture
from search.study.snapshot import SearchSnapshot
from trainer.cli.entry import MISTAKES
from trainer.cli.progress import Counting, counted_calls
from trainer.config import Precision, RunConfig
from trainer.data.classes import opening_work
from trainer.data.splits.part_sizes import nouns_of
from trainer.errors import one_line

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from models.output import Segmenter
    from trainer.checkpoint import Ready
    from trainer.data.dataset import DataSet, Pixels
    from trainer.data.sets.volumes import VolumeCases
    from trainer.figures.cases import Masks

WORST = 12
"""Images that are drawn at most."""
QUALITY = 85
"""Quality of the JPEG, up to 100."""


@dataclass(frozen=True)
class Wanted:
    """Whether pictures may be drawn, and where decoded images are kept."""

    asked: bool
    """--pictures: whoever runs the command says that readers may see the images."""
    cache: Path


class DrawnNetwork(NamedTuple):
    """The network whose worst images are drawn."""

    name: str
    """With its seed or trial, for a title."""
    weights: str
    """A file."""


def pictures(
    rows: SearchSnapshot, network: DrawnNetwork | None, wanted: Wanted | None
) -> tuple[tuple[Picture, ...], str | None]:
    """The pictures, or why there are none. network: the one to draw; wanted: None leaves them out."""
    shown = json.loads(rows.search.settings).get("dashboard", {}).get("images") == "validation"
    if wanted is None:
        return (), "Pictures are drawn when the search has ended."
    if not shown and not wanted.asked:
        return (), "No pictures: [dashboard] images is off in the study file, and --pictures was not given."
    if network is None:
        return (), "No pictures: no network was trained to its end."
    if not Path(network.weights).is_file():
        return (), "No pictures: the weights of the network are not on this machine."
    try:
        return (_worst(network, wanted.cache),), None
    except MISTAKES as error:
        return (), f"No pictures: {one_line(error)[:200]}"


def _worst(network: DrawnNetwork, cache: Path) -> Picture:
    import torch

    from trainer.checkpoint import ready
    from trainer.data import open_data
    from trainer.data.dataset import foreground_names
    from trainer.data.sets.volumes import VolumeCases
    from trainer.figures.cases import chosen, drawn

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = ready(Path(network.weights), device=device)
    data = open_data(made.run.data, cache=cache, progress=Counting(opening_work(made.run.data)))
    dice, masks = _examined(made.network, data, made.run.precision, device)
    if isinstance(data, VolumeCases):
        return _worst_volumes(network, made, data, dice, device)
    worst, _ = chosen(dice, WORST)
    networks = {**_taught(made.run, data, worst, device), "student": {index: masks[index] for index in worst}}
    row = nouns_of(made.run.data).row
    a_row = f"{'a' if row == 'slice' else 'an'} {row}"
    picture = drawn(f"the {len(worst)} worst of {len(dice)} validation {row}s", data, (worst, []), networks)
    two = len(foreground_names(data)) == 1
    at = f", at threshold {SEARCH_THRESHOLD:g}" if two or data.regions else ""
    colours = "right, extra, missed pixels are tinted" if two else "classes in their colours, wrong pixels striped"
    return Picture(
        title=f"Validation {row}s on which {network.name} does worst{at}",
        alt=f"A row {a_row}, worst first: image, truth, {', '.join(networks)}; {colours}",
        mimetype="image/jpeg",
        base64=_jpeg(picture),
    )


def _worst_volumes(
    network: DrawnNetwork, made: "Ready", data: "VolumeCases", dice: "NDArray[np.float64]", device: "torch.device"
) -> Picture:
    """The same of volumes: three planes through the worst error of the worst and of the median case."""
    from trainer.figures.volumes import worst_volumes

    teacher = _teacher(made.run, data, device)
    networks = {**({} if teacher is None else {"teacher": teacher}), "student": made.network}
    count = len(data.cases("validation"))
    picture = worst_volumes(
        f"the worst and the median of {count} validation cases",
        data,
        dice,
        networks,
        each=1,
        device=device,
        precision=made.run.precision,
    )
    return Picture(
        title=f"Validation cases on which {network.name} does worst and middling, by the mean Dice of their slices",
        alt="Three planes a case through the place of most errors: image, truth, networks; wrong voxels striped",
        mimetype="image/jpeg",
        base64=_jpeg(picture),
    )


def _jpeg(picture: "Image") -> str:
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=QUALITY)
    return base64.b64encode(content.getvalue()).decode()


def _examined(
    network: "Segmenter", data: "DataSet", precision: Precision, device: "torch.device"
) -> "tuple[NDArray[np.float64], Masks]":
    """Dice of each validation image, and its labels."""
    from trainer.distributed.ranks import Ranks
    from trainer.evaluation.metrics import validate
    from trainer.figures.cases import predicted_labels

    kept: dict[int, Pixels] = {}

    def keep(index: int, logits: "Tensor") -> None:
        kept[index] = predicted_labels(logits, regions=data.regions is not None)

    counted = counted_calls("looking for the worst images", keep, len(data.samples("validation")))
    scores = validate(network, data, "validation", ranks=Ranks(device), precision=precision, keep=counted)
    return scores.images["dice"], kept


def _taught(run: RunConfig, data: "DataSet", indices: list[int], device: "torch.device") -> "dict[str, Masks]":
    """The teacher's masks of some images; nothing where there is none."""
    from trainer.figures.cases import masks

    network = _teacher(run, data, device)
    if network is None:
        return {}
    return {"teacher": masks(network, data, indices, device=device, precision=run.precision)}


def _teacher(run: RunConfig, data: "DataSet", device: "torch.device") -> "Segmenter | None":
    """A run's teacher; None where it has none or its file is not here."""
    from trainer.errors import CheckpointError
    from trainer.teacher import assessment

    if run.teacher is None:
        return None
    try:
        return assessment.load(run, data, device=device)
    except CheckpointError:
        return None
