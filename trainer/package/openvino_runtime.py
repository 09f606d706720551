"""OpenVINO (the `openvino` extra): a network.onnx that computes in bfloat16, where the processor has it. Free of torch.

On such processors OpenVINO takes bfloat16 unless it is asked otherwise, and elsewhere float32 whatever it is asked;
what it really took is read back. Its package sends a message to its makers when it is imported: that is switched off.
"""

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import UserError, on_stderr, one_line
from trainer.package.onnx_runtime import Floats

EXTRA = "pip install 'kd-search[openvino]'"
BF16 = "BF16"
"""What a processor is capable of, as OpenVINO names it."""
FLOAT32 = (
    "note: this processor has no bfloat16, and OpenVINO computes in float32; labels are nearer to those of training"
)


class BFloat16Session:
    """A network file in OpenVINO on the CPU. threads: of one pass, default: the cores that this process may use."""

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        """Raises UserError where OpenVINO is not installed or cannot load the file."""
        openvino = need_openvino()
        self.threads = threads or len(os.sched_getaffinity(0))
        self.version = str(openvino.__version__).partition("-")[0]
        core = openvino.Core()
        self.capable = BF16 in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        """Whether it computes in bfloat16 here; else in float32."""
        wanted = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "bf16" if self.capable else "f32",
        }
        try:
            compiled = core.compile_model(str(path), "CPU", wanted)
        except RuntimeError as error:
            raise UserError(f"{path}: OpenVINO cannot load it: {one_line(error)[:200]}") from error
        taken = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if self.capable != (taken == "bf16"):
            raise UserError(
                f"{path}: OpenVINO computes it in {taken}, and was asked for {wanted}; use another precision"
            )
        shape = compiled.input(0).get_partial_shape()
        self.shape = tuple(int(side.get_length()) for side in list(shape)[1:])
        """Channels and sides of the input."""
        classes = compiled.output(0).get_partial_shape()[1]
        self.classes = int(classes.get_length()) if classes.is_static else None
        """Channels of the output; None where the file leaves them open."""
        self._output = compiled.output(0)
        self._request: Any = compiled.create_infer_request()

    def __call__(self, images: Floats) -> Floats:
        """Normalised images (N, channels, *sides) to logits (N, classes, *sides)."""
        logits = self._request.infer([np.ascontiguousarray(images, np.float32)])[self._output]
        return np.array(logits, np.float32)  # the request's own memory is written again by the next pass

    def note(self) -> None:
        """Say where it computes otherwise than the package was scored."""
        if not self.capable:
            on_stderr(FLOAT32)


def need_openvino() -> Any:
    """The module. Raises UserError where it is not installed."""
    # Its tools send "import" to Intel; without this module they know no way to.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return import_module("openvino")
    except ImportError as error:
        raise UserError(f"bfloat16 is computed by OpenVINO, which is not installed; {EXTRA}") from error
