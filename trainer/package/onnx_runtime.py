"""onnxruntime (the `onnx` extra): a network.onnx as a function from images to logits. Free of torch."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import UserError, one_line, received

Floats = NDArray[np.float32]

INPUT, OUTPUT = "images", "logits"
"""The names in the network file: float32 (N, channels, size, size) to float32 (N, classes, size, size), any N; of
volumes with three sides."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Device -> onnxruntime's name for what computes there."""
KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""What a network takes: float16 where it was packed in fp16."""
ERRORS = 3
"""onnxruntime's level below which it is silent: its warnings concern devices that nobody asked for."""


def need(*modules: str) -> list[Any]:
    """The modules of the `onnx` extra. Raises UserError where one is not installed."""
    try:
        return [import_module(name) for name in modules]
    except ModuleNotFoundError as error:
        raise UserError(f'needs {error.name!r}, which is not installed; pip install ".[onnx]"') from error


class Session:
    """A network file, loaded. threads: of one pass, default: the cores that this process may use."""

    def __init__(self, path: Path, *, device: str | None = None, threads: int | None = None) -> None:
        """Raises UserError where the file is no network that onnxruntime can load, or the device is not there."""
        runtime = self.runtime()
        self.provider = _provider(runtime, device or "cpu")
        self.threads = threads or len(os.sched_getaffinity(0))
        self.version = str(runtime.__version__)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS
        if not path.is_file():
            raise UserError(f"{path}: no such file; give a network.onnx")
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=[self.provider])
        except Exception as error:  # its exceptions share no class of their own
            # Its message repeats the path, which may be longer than what is wrong.
            why = one_line(error).replace(str(path), path.name)[:200]
            raise UserError(f"{path}: onnxruntime cannot load it: {why}") from error
        self.shape = self._shape(path)
        """Channels and sides of the input: two equal ones, or the three of a patch."""
        given = self._session.get_outputs()[0].shape
        self._kind = KINDS[self._session.get_inputs()[0].type]
        self.classes = given[1] if len(given) == 1 + len(self.shape) and isinstance(given[1], int) else None
        """Channels of the output; None where the file leaves them open."""

    @staticmethod
    def runtime() -> Any:
        """The module. Raises UserError where it is not installed."""
        return need("onnxruntime")[0]

    def _shape(self, path: Path) -> tuple[int, ...]:
        """(channels, size, size) or (channels, x, y, z) of the input. Raises UserError for another kind of network."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [each.name for each in (*inputs, *outputs)]
        kinds = {each.type for each in (*inputs, *outputs)}
        if not kinds <= KINDS.keys():
            raise UserError(f"{path}: takes and gives {', '.join(sorted(kinds))}; expected float or float16")
        shape = inputs[0].shape if inputs else []
        fixed = all(isinstance(side, int) for side in shape[1:])
        known = len(shape) == 5 or (len(shape) == 4 and shape[2] == shape[3])
        if names != [INPUT, OUTPUT] or not (fixed and known):
            raise UserError(
                f"{path}: takes and gives {received(names)} with an input of shape {shape}; expected {INPUT} "
                f"(N, channels, size, size) or (N, channels, x, y, z) and {OUTPUT}, as `trainer package` writes it"
            )
        return tuple(int(side) for side in shape[1:])

    def __call__(self, images: Floats) -> Floats:
        """Normalised images (N, channels, *sides) to logits (N, classes, *sides)."""
        logits: Floats = self._session.run([OUTPUT], {INPUT: images.astype(self._kind, copy=False)})[0]
        return logits.astype(np.float32, copy=False)


Network = Callable[[Floats], Floats]


def _provider(runtime: Any, device: str) -> str:
    here = [name for name, provider in PROVIDERS.items() if provider in runtime.get_available_providers()]
    kind = device.partition(":")[0]
    if kind not in here:
        raise UserError(f"--device {device}: this onnxruntime has it not; known: {', '.join(here)}")
    return PROVIDERS[kind]
