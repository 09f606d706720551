"""The options of the networks of plain convolutions, a class for each family."""

from typing import Literal

from models.config.network import WideNetwork


class UNetNetwork(WideNetwork):
    """U-Net, as wide as asked for."""

    name: Literal["unet"]


class ResUNetNetwork(WideNetwork):
    """Residual U-Net, as wide as asked for."""

    name: Literal["resunet"]


ConvolutionalNetwork = UNetNetwork | ResUNetNetwork
