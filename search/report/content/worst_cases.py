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
from trainer.errors import one_line

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from models.output import Segmenter
    from trainer.data.dataset import DataSet, Pixels
    from trainer.evaluation.case_figures import Masks

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
    from trainer.evaluation.case_figures import chosen, drawn

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = ready(Path(network.weights), device=device)
    data = open_data(made.run.data, cache=cache, progress=Counting("decoding pictures"))
    dice, masks = _examined(made.network, data, made.run.precision, device)
    worst, _ = chosen(dice, WORST)
    networks = {**_taught(made.run, data, worst, device), "student": {index: masks[index] for index in worst}}
    picture = drawn(f"the {len(worst)} worst of {len(dice)} validation images", data, (worst, []), networks)
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=QUALITY)
    two = len(foreground_names(data)) == 1
    at = f", at threshold {SEARCH_THRESHOLD:g}" if two or data.regions else ""
    colours = "right, extra, missed pixels are tinted" if two else "classes in their colours, wrong pixels striped"
    return Picture(
        title=f"Validation images on which {network.name} does worst{at}",
        alt=f"A row an image, worst first: image, truth, {', '.join(networks)}; {colours}",
        mimetype="image/jpeg",
        base64=base64.b64encode(content.getvalue()).decode(),
    )


def _examined(
    network: "Segmenter", data: "DataSet", precision: Precision, device: "torch.device"
) -> "tuple[NDArray[np.float64], Masks]":
    """Dice of each validation image, and its labels."""
    from trainer.distributed.ranks import Ranks
    from trainer.evaluation.case_figures import predicted_labels
    from trainer.evaluation.metrics import validate

    kept: dict[int, Pixels] = {}

    def keep(index: int, logits: "Tensor") -> None:
        kept[index] = predicted_labels(logits, regions=data.regions is not None)

    counted = counted_calls("looking for the worst images", keep, len(data.samples("validation")))
    scores = validate(network, data, "validation", ranks=Ranks(device), precision=precision, keep=counted)
    return scores.images["dice"], kept


def _taught(run: RunConfig, data: "DataSet", indices: list[int], device: "torch.device") -> "dict[str, Masks]":
    """The teacher's masks of some images; nothing where the run has none or its file is not here."""
    from trainer.errors import CheckpointError
    from trainer.evaluation.case_figures import masks
    from trainer.teacher import assessment

    if run.teacher is None:
        return {}
    try:
        network = assessment.load(run, data, device=device)
    except CheckpointError:
        return {}
    return {"teacher": masks(network, data, indices, device=device, precision=run.precision)}
