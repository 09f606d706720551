"""A teacher in an ONNX file, run by onnxruntime (the `onnx` extra)."""

import hashlib
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.checkpoint import digest
from trainer.cli.missing_packages import remedy
from trainer.errors import CheckpointError
from trainer.teacher.exported import Program

_KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def open_onnx(path: Path, take: str | None, *, channels: int, device: torch.device) -> Program:
    """The network of a file, on the device where onnxruntime can reach it, else on the CPU. Raises CheckpointError."""
    runtime = _package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    wished = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in wished if name in runtime.get_available_providers()] + ["CPUExecutionProvider"]
    try:
        session = runtime.InferenceSession(str(path), sess_options=options, providers=providers)
    except Exception as error:
        # onnxruntime's errors share no class, and their messages span lines.
        raise CheckpointError(f"{path}: no ONNX network that onnxruntime can run ({_first_line(error)})") from error
    if len(session.get_inputs()) != 1:
        names = ", ".join(entry.name for entry in session.get_inputs())
        raise CheckpointError(f"{path}: takes the inputs {names}; expected images alone")
    entry = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else None for size in entry.shape]
    if entry.type not in _KINDS or len(shape) != 4 or shape[1] not in (None, channels):
        raise CheckpointError(
            f"{path}: input {entry.name} is {entry.type} {entry.shape}; expected float images (N, {channels}, H, W)"
        )
    name = _output(session, take, path)
    kind = _KINDS[entry.type]

    def call(images: Tensor) -> Tensor:
        found: Any = session.run([name], {entry.name: images.cpu().numpy().astype(kind, copy=False)})[0]
        return torch.from_numpy(found).to(images.device)

    height, width = shape[2:]
    size = None if height is None or width is None else (height, width)
    return Program(call, size, shape[0] or 1, shape[0])


def content(path: Path) -> str:
    """sha256 over a file and the files of weights that it names beside it. Raises CheckpointError."""
    whole = digest(path)
    onnx = _package("onnx")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        # The parser of its format raises an error of its own library.
        raise CheckpointError(f"{path}: not an ONNX file, or cut short ({_first_line(error)})") from error
    beside = {pair.value for tensor in _tensors(model.graph) for pair in tensor.external_data if pair.key == "location"}
    if not beside:
        return whole
    lines = [whole, *(f"{name} {digest(path.parent / name)}" for name in sorted(beside))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _tensors(graph: Any) -> list[Any]:
    """All stored tensors of a graph: its weights, constants, and those of graphs within it."""
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t, *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    found += _tensors(inner)
    return found


def _output(session: Any, take: str | None, path: Path) -> str:
    names = [str(entry.name) for entry in session.get_outputs()]
    if take is None and len(names) == 1:
        return names[0]
    if take not in names:
        wrong = "teacher.take: missing" if take is None else f"teacher.take = {take!r}: no such output"
        raise CheckpointError(f"{wrong}; {path} returns {', '.join(names)}")
    return take


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise CheckpointError(f'teacher.name = "onnx": {remedy(error)}') from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
