"""Lets torchvision be imported next to a torch that lacks its compiled operators.

The torchvision wheel of the package index is linked to CUDA libraries. Next to a CPU build of torch these libraries are
not there, its operators stay undeclared, and `import torchvision` ends with `operator torchvision::nms does not exist`;
with it fail timm and segmentation-models-pytorch, which import torchvision but call none of these operators. Declaring
the two that the import itself looks up is enough. A call of one of them still raises, and where torchvision works
nothing is touched.
"""

import sys
from importlib import import_module

import torch

_OPERATORS = ("nms", "qnms")
_declared: list[torch.library.Library] = []
"""Kept for the life of the process: a declaration ends with its Library object."""


def make_importable() -> None:
    """Import torchvision, declaring its missing operators first if need be. Raises ImportError where not installed."""
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _declared:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]  # torch leaves it untyped
        _declared.append(library)
        for operator in _OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        import_module("torchvision")
