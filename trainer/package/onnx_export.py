"""A network as an ONNX file with a free number of images, by torch's exporter (the `onnx` extra)."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from models.output import Segmenter
from trainer.package.onnx_runtime import INPUT, OUTPUT, need

OPSET = 18
"""The version of ONNX's operators that the file uses: the lowest that torch's exporter writes without converting."""
IMAGES = 2
"""Images of the example that is traced; one would be taken for a constant."""


class _Logits(nn.Module):
    """The network without its taps, which only training needs."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).logits
        return logits


def export(network: Segmenter, path: Path, *, channels: int, size: int | tuple[int, int, int]) -> None:
    """Write a network in evaluation mode on the CPU in float32: `images` (N, channels, size, size) to `logits` (N,
    classes, size, size), N free; of volumes the patch's sides x, y, z in the place of size x size.

    torch.export captures the graph (`dynamo=True`; the TorchScript exporter is deprecated since torch 2.9). What it
    notes of the source's lines is left out: it names places of this machine. Raises UserError without the extra.
    """
    onnx, _ = need("onnx", "onnxscript")
    sides = (size, size) if isinstance(size, int) else size
    example = torch.zeros(IMAGES, channels, *sides)
    with warnings.catch_warnings():
        # What torch's exporter and its libraries say of each other's interfaces.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            _Logits(network).eval(),
            (example,),
            str(path),
            dynamo=True,
            external_data=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=OPSET,
            verbose=False,
        )
    model = onnx.load(path)
    for owner in (
        model,
        model.graph,
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        owner.ClearField("metadata_props")
        owner.ClearField("doc_string")
    onnx.checker.check_model(model)
    onnx.save(model, path)
