"""What a network's input is: channels in [0, 1], less a mean, over a deviation; and what pretrained encoders expect.

Free of torch until a weights' name of timm is looked up.
"""

from functools import cache
from typing import NamedTuple

RGB = tuple[float, float, float]


class Normalisation(NamedTuple):
    """What is subtracted from a network's input, and by what that is divided: one value a channel (red first where they
    are colours), in units of channels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of ImageNet's pictures: what networks with drawn weights get, and most pretrained ones expect."""

HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Values from -1 to 1: what Inception networks and Google's vision transformers expect."""


def normalisation_for(channels: int) -> Normalisation:
    """What networks get that say nothing of their input: ImageNet's for three channels, and for any other number
    nothing is taken away and nothing is divided."""
    return IMAGENET if channels == len(IMAGENET.mean) else Normalisation((0.0,) * channels, (1.0,) * channels)


_DPN = Normalisation((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
_OWN = (
    ("dpn", None, _DPN),
    ("inception", None, HALF),
    ("xception", None, HALF),
    ("efficientnet-", "advprop", HALF),
    ("timm-efficientnet-", "advprop", HALF),
    ("timm-tf_efficientnet_lite", None, HALF),
)
"""How an encoder of segmentation-models-pytorch begins, its weights (None: any) -> what they expect, where that is not
ImageNet's. The package read it from its source until version 0.4 (`pretrained_settings`), and has it beside the weights
on their hub since; all of its encoders take RGB in [0, 1]."""
_OWN_TIMM = ("timm-efficientnet-", "timm-tf_efficientnet_lite", "timm-skresnet")
"""How those of its own encoders begin whose names look like timm's."""


def pretrained_input(encoder: str, weights: str | None) -> Normalisation | None:
    """What an encoder's pretrained weights expect, where it is not ImageNet's; None too without weights, and for names
    that nobody knows, which `models.build` refuses.

    Names of timm (`tu-...`) are looked up in its `pretrained_cfg`, of the tag that the name has or that timm takes by
    default. Raises ValueError in one line where timm is needed and not installed.
    """
    if weights is None:
        return None
    if encoder.startswith(("tu-", "timm-")) and not encoder.startswith(_OWN_TIMM):
        return _of_timm(encoder)
    return next(
        (known for begins, named, known in _OWN if encoder.startswith(begins) and named in (None, weights)), None
    )


@cache
def _of_timm(encoder: str) -> Normalisation | None:
    from models.smp import pretrained_settings

    mean, std = pretrained_settings(encoder) or IMAGENET
    known = Normalisation(_rgb(mean), _rgb(std))
    return None if known == IMAGENET else known


def _rgb(values: tuple[float, ...]) -> RGB:
    red, green, blue = map(float, values)
    return red, green, blue
