"""Teachers that other programs made, and students that listen to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import models
from models.config import UNetNetwork
from trainer.config import RunConfig
from trainer.data import DataSet, open_data
from trainer.data.streams.batches import normalise
from trainer.errors import CheckpointError
from trainer.teacher import open as opened

CPU = torch.device("cpu")
SIZE = 32
DATA = {"name": "blobs", "size": SIZE, "train": 6, "validation": 4, "test": 2, "augment": "standard", "views": 2}
WEIGHTS = np.array([[[[0.02]], [[-0.01]], [[0.005]]]], np.float32)
"""Of the only convolution of the exported networks here, on channels in their order."""


def taught_by(teacher: dict[str, Any], **changes: Any) -> RunConfig:
    base = {
        "method": "kl",
        "epochs": 1,
        "batch_size": 3,
        "data": DATA,
        "teacher": teacher,
        "student": {"name": "unet", "width": 2},
        "losses": {"ce": {}, "kl": {}},
    }
    return RunConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return open_data(taught_by({"name": "unet"}).data, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def images(data: DataSet) -> torch.Tensor:
    """Five plain pictures (5, S, S, 3) uint8."""
    return torch.from_numpy(np.stack([data.fitted("train", index)[0] for index in range(5)]))


def logits_of(run: RunConfig, data: DataSet, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = opened.opened(run, data, device=CPU).network(normalise(images)).logits
    return logits


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def network(classes: int = 2, seed: int = 3) -> models.output.Segmenter:
    torch.manual_seed(seed)
    return models.build(UNetNetwork(name="unet", width=4), in_channels=3, classes=classes).eval()


def write_onnx(
    path: Path, *, size: int | str = "s", batch: int | str = "n", last: str = "Identity", outside: bool = False
) -> Path:
    """A network of one convolution to one channel, then `last`."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node(last, ["y"], ["z"])]
    weight = numpy_helper.from_array(WEIGHTS, "w")
    entries = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, size])]
    exits = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, 1, size, size])]
    graph = helper.make_graph(nodes, "g", entries, exits, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path, save_as_external_data=outside, location="weights.bin", size_threshold=0)
    return path


def bytes_network(images: torch.Tensor) -> torch.Tensor:
    """What that convolution says of (n, S, S, 3) pixels in the order blue, green, red, from 0 to 255."""
    return (images.flip(-1).float() * torch.from_numpy(WEIGHTS[0, :, 0, 0])).sum(-1)


def onnx_table(path: Path, **options: Any) -> dict[str, Any]:
    kind: dict[str, Any] = {"name": "export", "trust": True} if path.suffix == ".pt2" else {"name": "onnx"}
    return {**kind, "checkpoint": str(path), "pixels": "0-255", "colours": "bgr", "output": "logits"} | options


@pytest.fixture(scope="session", name="taught_by")
def _taught_by() -> Callable[..., RunConfig]:
    """The run of a student below a teacher: `taught_by({"name": "unet"}, epochs=2)`."""
    return taught_by


@pytest.fixture(scope="session", name="logits_of")
def _logits_of() -> Callable[..., torch.Tensor]:
    """What the teacher of a run says of images: `logits_of(run, data, images)`."""
    return logits_of


@pytest.fixture(scope="session", name="refusal")
def _refusal() -> Callable[..., str]:
    """The one line with which a call refuses: `refusal(lambda: call())`."""
    return refusal


@pytest.fixture(scope="session", name="network")
def _network() -> Callable[..., models.output.Segmenter]:
    """A small network of this program: `network(classes=2)`."""
    return network


@pytest.fixture(scope="session", name="write_onnx")
def _write_onnx() -> Callable[..., Path]:
    """Writes a network of one convolution: `write_onnx(path, last="Sigmoid")`."""
    return write_onnx


@pytest.fixture(scope="session", name="bytes_network")
def _bytes_network() -> Callable[..., torch.Tensor]:
    """What that network says of pixels: `bytes_network(images)`."""
    return bytes_network


@pytest.fixture(scope="session", name="onnx_table")
def _onnx_table() -> Callable[..., dict[str, Any]]:
    """The table of such a teacher: `onnx_table(path, output="probabilities")`."""
    return onnx_table


@pytest.fixture(scope="session", name="weights")
def _weights() -> np.ndarray:
    """The weights of its convolution."""
    return WEIGHTS
