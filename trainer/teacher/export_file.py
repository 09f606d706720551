"""A teacher in a program that torch.export wrote (.pt2)."""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.errors import CheckpointError
from trainer.teacher.exported import Program


def open_export(path: Path, take: str | None, *, channels: int, device: torch.device) -> Program:
    """The program of a file on the device. Raises CheckpointError."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: no program of torch.export, or cut short; write it with torch.export.save")
    try:
        program = torch.export.load(path)
    except Exception as error:
        # Other archives, other versions, operators that are not here: each has an error of its own.
        raise CheckpointError(f"{path}: no program that this torch can run ({_short(error)})") from error
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    shape, kind = _input(program, path, channels)
    module = program.module()
    where = _number(take)

    def call(images: Tensor) -> Tensor:
        return _chosen(module(images.to(kind)), take, where, path)

    height, width = (size if isinstance(size, int) else None for size in shape[2:])
    least, most = _range(program, shape[0])
    return Program(call, None if height is None or width is None else (height, width), least, most)


def _input(program: Any, path: Path, channels: int) -> tuple[tuple[Any, ...], torch.dtype]:
    """Shape and type of the only input."""
    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].ndim != 4 or values[0].shape[1] != channels:
        shapes = ", ".join(str(tuple(getattr(value, "shape", ()))) for value in values)
        raise CheckpointError(f"{path}: takes {shapes or 'nothing'}; expected images (N, {channels}, H, W) alone")
    return tuple(values[0].shape), values[0].dtype


def _range(program: Any, size: Any) -> tuple[int, int | None]:
    """How many images the program takes: least and most."""
    if isinstance(size, int):
        return size, size
    bounds = program.range_constraints.get(size.node.expr)
    if bounds is None:
        return 1, None
    upper = int(bounds.upper) if bounds.upper.is_Integer and int(bounds.upper) < 2**31 else None
    return max(int(bounds.lower), 1), upper


def _number(take: str | None) -> int | None:
    if take is None:
        return None
    if not take.isdecimal():
        raise CheckpointError(f"teacher.take = {take!r}: expected the number of an output, from 0")
    return int(take)


def _chosen(returned: Any, take: str | None, number: int | None, path: Path) -> Tensor:
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(returned) if isinstance(leaf, Tensor)]
    if number is None and len(leaves) == 1:
        return leaves[0]
    if number is None or number >= len(leaves):
        wrong = "teacher.take: missing" if take is None else f"teacher.take = {take!r}: no such output"
        raise CheckpointError(f"{wrong}; {path} returns {len(leaves)} tensors, numbered from 0")
    return leaves[number]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
