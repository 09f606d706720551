"""A network that another program exported (torch.export or ONNX), in the place of a teacher, its input and output
brought to ours. ONNX runs through onnxruntime, which the extra `onnx` brings.
"""

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.config import ExportedTeacher
from models.normalisation import Normalisation, normalisation_for
from models.output import Output, Segmenter
from trainer.checkpoint import digest
from trainer.cli.missing_packages import remedy
from trainer.errors import CheckpointError

LEAST = 1e-6
"""Probabilities nearer to 0 and 1 are brought there before their logarithm."""
LOOSE = 0.01
"""How far a pixel's class probabilities may be from 1 in sum."""


@dataclass(frozen=True)
class Program:
    """What a file offers once it is open."""

    call: Callable[[Tensor], Tensor]
    """Images (n, C, *S) float32 on the teacher's device, contiguous, to its output (n, k, *s) or (n, *s)."""
    size: tuple[int, ...] | None
    """Height and width, or the three sides of patches, that it takes; None: any."""
    least: int
    most: int | None
    """Images in one call; None: any number."""


class Exported(Segmenter):
    """Images normalised as for our networks to logits (N, classes, *S), whatever the program takes and returns.

    The images get the program's own normalisation and, where its size is fixed, are resized to it; the output is
    resized back (linear, half-pixel centres). Patches of volumes are never resized, which would change their spacing:
    another fixed size is refused. One channel z becomes the logits (0, z), whose softmax is sigmoid(z)
    exactly; probabilities become their logarithms, one channel p its logit. Of regions, each channel is the logit or
    the probability of one by itself. It always runs in the precision that it was
    exported in. Raises CheckpointError for an output that is not what the settings say.
    """

    stride = 1

    def __init__(
        self,
        program: Program,
        config: ExportedTeacher,
        ours: Normalisation,
        *,
        classes: int,
        where: str,
        regions: bool = False,
        dims: int = 2,
    ) -> None:
        """ours: how the images that it is given are normalised. dims: axes of space."""
        super().__init__()
        self.dims = dims
        self.normalisation = ours
        self.taps = {}
        self._program, self._config, self._classes, self._where = program, config, classes, where
        self._regions = regions
        scale, shift = _normalisation(config, ours, where, dims)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, images: Tensor) -> Output:
        """Normalised images (N, C, *S) to logits; no taps."""
        size = tuple(images.shape[2:])
        with torch.autocast(images.device.type, enabled=False):
            out = self._returned(images)
            if tuple(out.shape[2:]) != size:
                mode = "bilinear" if self.dims == 2 else "trilinear"
                out = functional.interpolate(out, size=size, mode=mode, align_corners=False)
            return Output(self._logits(out), {})

    def _returned(self, images: Tensor) -> Tensor:
        """What the program says of normalised images: (N, 1 or classes, *s) float32."""
        x = images.float() * self.scale + self.shift
        x = x.flip(1) if self._config.colours == "bgr" else x
        if self._program.size not in (None, tuple(x.shape[2:])):
            if self.dims == 3:
                raise CheckpointError(f"{self._where}: {fixed_patch(self._program.size, x.shape[2:])}")
            x = functional.interpolate(x, size=self._program.size, mode="bilinear", align_corners=False)
        out = torch.cat([self._called(part) for part in torch.split(x.contiguous(), self._program.most or len(x))])
        return self._checked(out[:, None] if out.ndim == self.dims + 1 else out)

    def _called(self, images: Tensor) -> Tensor:
        """The program on one share, filled up with copies of its last image where the program takes more."""
        short = self._program.least - len(images)
        if short > 0:
            images = torch.cat([images, images[-1:].expand(short, *images.shape[1:])])
        try:
            out = self._program.call(images)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Whatever runs the program has errors of its own, of many lines.
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(
                f"{self._where}: does not take images {tuple(images.shape)}: {reason}; choose another "
                f"{'data.size' if self.dims == 2 else 'data.patch'}"
            ) from error
        return out[: len(out) - max(short, 0)].float()

    def _checked(self, out: Tensor) -> Tensor:
        either = self._classes == 2 and not self._regions
        if out.ndim != self.dims + 2 or out.shape[1] not in ((1, 2) if either else (self._classes,)):
            wished = "1 or 2 channels" if either else f"{self._classes} channels"
            raise CheckpointError(
                f"{self._where}: returns {tuple(out.shape)}, expected {_EXPECTED[self.dims].format(wished)}; export "
                f"the network with such an output, or name it with teacher.take"
            )
        return out

    def _logits(self, out: Tensor) -> Tensor:
        if self._config.output == "probabilities":
            out = out.clamp(LEAST, 1 - LEAST)
            out = torch.logit(out) if out.shape[1] == 1 or self._regions else out.log()
        if self._regions:
            return out
        return torch.cat([torch.zeros_like(out), out], dim=1) if out.shape[1] == 1 else out

    @torch.no_grad()
    def probe(self, images: Tensor) -> str | None:
        """Run on a few normalised images; a doubt about `output` in words, or None. Raises CheckpointError."""
        out = self._returned(images)
        low, high, sums = float(out.min()), float(out.max()), out.sum(1)
        if not bool(torch.isfinite(out).all()):
            raise CheckpointError(f"{self._where}: returns values that are not finite on images of this data")
        single = out.shape[1] == 1 or self._regions
        proper = low >= 0.0 and high <= 1.0 and (single or float((sums - 1).abs().max()) < LOOSE)
        if self._config.output == "probabilities" and not proper:
            raise CheckpointError(
                f'teacher.output = "probabilities": {self._where} returns {low:.3g} to {high:.3g}; set it to "logits"'
                if not 0.0 <= low <= high <= 1.0
                else f'teacher.output = "probabilities": the classes of {self._where} do not add up to 1; export logits'
            )
        if self._config.output == "logits" and proper:
            return f"{self._where} returns {low:.3g} to {high:.3g}: if those are probabilities, set teacher.output so"
        return None


_EXPECTED = {2: "images, {}, height and width", 3: "patches, {}, and three sides"}


def fixed_patch(takes: Sequence[int] | None, given: Sequence[int]) -> str:
    """Why a network that takes patches of one size gets no others."""
    own, other = (" x ".join(map(str, sides or ())) for sides in (takes, given))
    return f"takes patches of {own} voxels alone, not {other}, and patches are not resized; set data.patch to {own}"


def _normalisation(config: ExportedTeacher, ours: Normalisation, where: str, dims: int) -> tuple[Tensor, Tensor]:
    """Scale and shift (C, 1, ...) from images normalised as for our networks to those that the program takes."""
    byte = config.pixels == "0-255"
    if dims == 3 and (byte or config.colours == "bgr"):
        field = 'pixels = "0-255"' if byte else 'colours = "bgr"'
        raise CheckpointError(
            f"teacher.{field}: {where} is given patches of volumes, as data.recipe prepares them; leave it out"
        )
    ours_mean, ours_std = torch.tensor(ours.mean), torch.tensor(ours.std)
    channels = len(ours.mean)
    if config.colours == "bgr" and channels != 3:
        raise CheckpointError(f'teacher.colours = "bgr": {where} is given {channels} channels, not 3; leave it out')
    black = torch.zeros(channels)
    usual = normalisation_for(channels) if dims == 2 else as_prepared(channels)
    mean = _channels(config, "mean", black if byte else torch.tensor(usual.mean), where)
    std = _channels(config, "std", black + 1 if byte else torch.tensor(usual.std), where)
    top = 255.0 if byte else 1.0
    if not byte and torch.equal(mean, ours_mean) and torch.equal(std, ours_std):
        return torch.ones(channels, *[1] * dims), torch.zeros(channels, *[1] * dims)
    both = top * ours_std / std, (top * ours_mean - mean) / std
    scale, shift = (values.reshape(channels, *[1] * dims) for values in both)
    return scale, shift


def as_prepared(channels: int) -> Normalisation:
    """How patches of volumes come: their preparation normalised them."""
    return Normalisation((0.0,) * channels, (1.0,) * channels)


def _channels(config: ExportedTeacher, name: Literal["mean", "std"], other: Tensor, where: str) -> Tensor:
    """The values given, in the order of our channels, or the others."""
    given, channels = getattr(config, name), len(other)
    if given is None:
        return other
    if len(given) not in (1, channels):
        raise CheckpointError(f"teacher.{name} = {list(given)}: {where} is given {channels} channels; write as many")
    values = torch.tensor(given).expand(channels)
    # They stand in the order of its channels, and are applied before the channels are turned round.
    return values.flip(0) if config.colours == "bgr" else values


def open_export(path: Path, take: str | None, *, channels: int, device: torch.device, dims: int = 2) -> Program:
    """The program of a file on the device. Raises CheckpointError.

    The file is trusted: torch unpickles objects in it without a limit, and evaluates its expressions of sizes as Python
    (`torch.export.load` warns of the first).
    """
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: no program of torch.export, or cut short; write it with torch.export.save")
    try:
        with _silent("torch.export", "torch._export"):
            program = torch.export.load(path)
    except Exception as error:
        # Other archives, other versions, operators that are not here: each has an error of its own.
        raise CheckpointError(f"{path}: no program that this torch can run ({_short(error)})") from error
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    shape, kind = _input(program, path, channels, dims)
    module = program.module()
    where = _number(take)

    def call(images: Tensor) -> Tensor:
        return _chosen(module(images.to(kind)), take, where, path)

    least, most = _range(program, shape[0])
    return Program(call, _fixed(shape[2:]), least, most)


def _fixed(sides: Sequence[object]) -> tuple[int, ...] | None:
    """Sides that are all numbers; None where one of them may be any."""
    known = tuple(side for side in sides if isinstance(side, int))
    return known if len(known) == len(sides) else None


@contextmanager
def _silent(*names: str) -> Iterator[None]:
    """Inside, these loggers say nothing: of a file that it cannot read torch logs the traceback, too."""
    loggers = [logging.getLogger(name) for name in names]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def _input(program: Any, path: Path, channels: int, dims: int) -> tuple[tuple[Any, ...], torch.dtype]:
    """Shape and type of the only input."""
    names = program.graph_signature.user_inputs
    values = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    given = [(tuple(value.shape), value.dtype) for value in values if isinstance(value, Tensor)]
    if len(values) != 1 or len(given) != 1 or len(given[0][0]) != dims + 2 or given[0][0][1] != channels:
        shapes = ", ".join(str(tuple(getattr(value, "shape", ()))) for value in values)
        raise CheckpointError(f"{path}: takes {shapes or 'nothing'}; expected {_wished(channels, dims)} alone")
    return given[0]


def _wished(channels: int, dims: int) -> str:
    return f"images (N, {channels}, H, W)" if dims == 2 else f"patches (N, {channels}, X, Y, Z)"


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


_KINDS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def open_onnx(path: Path, take: str | None, *, channels: int, device: torch.device, dims: int = 2) -> Program:
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
    if entry.type not in _KINDS or len(shape) != dims + 2 or shape[1] not in (None, channels):
        raise CheckpointError(
            f"{path}: input {entry.name} is {entry.type} {entry.shape}; expected float {_wished(channels, dims)}"
        )
    name = _output(session, take, path)
    kind = _KINDS[entry.type]

    def call(images: Tensor) -> Tensor:
        output: Any = session.run([name], {entry.name: images.cpu().numpy().astype(kind, copy=False)})[0]
        return torch.from_numpy(output).to(images.device)

    return Program(call, _fixed(shape[2:]), shape[0] or 1, shape[0])


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
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [attribute.t, *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    tensors += _tensors(inner)
    return tensors


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
