"""The cases on which networks do worst, as one picture, of pictures and of volumes alike."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.config import Precision
from trainer.data.dataset import DataSet
from trainer.data.sets.volumes import VolumeCases
from trainer.figures.cases import chosen, drawn, masks
from trainer.figures.volumes import worst_volumes

if TYPE_CHECKING:
    import torch

    from models.output import Segmenter


def worst_and_median(
    title: str,
    data: DataSet,
    dice: NDArray[np.float64],
    networks: "Mapping[str, Segmenter]",
    *,
    each: int,
    device: "torch.device",
    precision: Precision,
) -> Image.Image:
    """The `each` worst validation pictures and as many around the median; of volumes one of each, since each of their
    networks has to go through a whole volume.

    dice: of each image or slice, in the order of `DataSet.samples`. Only what is drawn goes through the networks, which
    are in evaluation mode.
    """
    if isinstance(data, VolumeCases):
        return worst_volumes(title, data, dice, networks, each=1, device=device, precision=precision)
    worst, median = chosen(dice, each)
    predicted = {
        name: masks(network, data, [*worst, *median], device=device, precision=precision)
        for name, network in networks.items()
    }
    return drawn(title, data, (worst, median), predicted)
