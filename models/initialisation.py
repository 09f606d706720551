"""Other ways than torch's of drawing the weights that a network begins with."""

from torch import nn


def draw_weights(network: nn.Module, way: str) -> None:
    """Draw the weights anew: `torch` leaves what the layers drew; `he` is the way of ACF-BCKD's code (Yu et al. 2025,
    after He et al. 2015, arXiv 1502.01852).

    With it, weights of convolutions and transposed convolutions are normal with variance 2 / fan-out, and biases are 0.
    Fan-out is what torch calls so: outputs times voxels of the kernel, in groups or not, and of a transposed one inputs
    times voxels. Normalisation keeps its scale of 1 and shift of 0, and all else what it had. Draws come from torch's
    global generator, in the order of the modules.
    """
    if way != "he":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
