"""A student as MONAI builds it: the class and its arguments, and the weights under the names that it has there."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from models.config import NetworkConfig, ResidualUNet3dNetwork, SegResNetNetwork
from trainer.errors import UserError
from trainer.teacher.monai_keys import BLOCKS, LEVELS, Pair, pairs_of

if TYPE_CHECKING:
    from torch import Tensor

KNOWN = ("tiny-unet-3d", "residual-unet-3d", "segresnet")
"""Networks that MONAI has with the same layers."""


def network_def(student: NetworkConfig, *, channels: int, classes: int) -> dict[str, Any]:
    """What MONAI's ConfigParser builds the network from. Raises UserError for networks that MONAI has not."""
    sides: dict[str, Any] = {"spatial_dims": 3, "in_channels": channels, "out_channels": classes}
    if isinstance(student, ResidualUNet3dNetwork):
        return {
            "_target_": "UNet",
            **sides,
            "channels": [student.width * 2**level for level in range(LEVELS + 1)],
            "strides": [2] * LEVELS,
            "num_res_units": student.units,
        }
    if isinstance(student, SegResNetNetwork):
        return {
            "_target_": "SegResNet",
            **sides,
            "init_filters": student.width,
            "blocks_down": list(BLOCKS),
            "blocks_up": [1] * (len(BLOCKS) - 1),
        }
    raise UserError(
        f"{student.name}: MONAI has no such network, and a bundle holds one that MONAI builds; known: "
        f"{', '.join(KNOWN)}; the package itself runs anywhere that onnxruntime does"
    )


def monai_state(student: NetworkConfig, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A state dict of ours under MONAI's names."""
    pairs = pairs_of(student.name)
    return {_theirs(key, pairs): tensor for key, tensor in state.items()}


def _theirs(key: str, pairs: tuple[Pair, ...]) -> str:
    """The name there of one of ours; the longest beginning counts. Raises RuntimeError for one that has none."""
    fitting = [(theirs, ours) for theirs, ours in pairs if key.startswith(ours)]
    if not fitting:
        raise RuntimeError(f"{key}: has no name in MONAI's network")
    theirs, ours = max(fitting, key=lambda pair: len(pair[1]))
    return theirs + key[len(ours) :]
