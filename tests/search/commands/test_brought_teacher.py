"""`search init --teacher FILE`: a teacher that somebody brings becomes a table that loads and that validate accepts."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from models.torchvision_guard import make_importable
from search.__main__ import main
from search.spec.load import load
from trainer.cli.entry import guard
from trainer.data.reading import Reading
from trainer.data.sets.blobs import draw
from trainer.teacher.inspection import inspect

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in a folder with a few drawn pictures of 64 pixels: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for number in range(10):
        image, mask = draw(number, 64)
        for place, pixels in (("images", image), ("masks", mask * 255)):
            Path("mine", place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(Path("mine", place, f"{number}.png"))

    def called(*words: str) -> tuple[int, str, str]:
        code = guard(lambda: main(list(words)))
        done = capsys.readouterr()
        return code, done.out, done.err

    return called


def accepted(run: Run) -> str:
    """What `validate` prints where nothing but the floor of a teacher with drawn weights is set."""
    code, out, err = run("validate", "mine", "--no-timing", "--set", "run.teacher.min_dice=0.0")
    assert code == 0, out + err
    return out


@pytest.mark.skipif(find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed")
def test_a_lightning_checkpoint_of_the_package_becomes_a_teacher(run: Run) -> None:
    make_importable()
    network = import_module("segmentation_models_pytorch").Unet("resnet18", encoder_weights=None, classes=1)
    state = {f"model.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state}, "their $file.ckpt")
    code, out, err = run("init", "mine", "--teacher", "their $file.ckpt")
    assert (code, err) == (0, "")
    assert "their $file.ckpt  a state dict of smp-unet encoder resnet18, 14.3 M parameters" in out
    assert "one channel (sigmoid)" in out
    assert "trainer teach" not in out
    spec = load(Path("studies/mine.toml"))
    assert spec.run.teacher is not None
    assert spec.run.teacher.model_dump(include={"name", "encoder", "keys", "min_dice"}) == {
        "name": "smp-unet",
        "encoder": "resnet18",
        "keys": (("model.", ""), ("segmentation_head.", "head.")),
        "min_dice": 0.5,
    }
    assert spec.limits.params_m == 3.6
    assert "choices = [8, 12, 16]" in Path("studies/mine.toml").read_text()
    assert "182 keys match; one channel read as sigmoid: head.0.weight" in accepted(run)


def test_an_onnx_file_becomes_a_teacher(run: Run) -> None:
    weight = numpy_helper.from_array(np.full((2, 3, 1, 1), 0.1, np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Softmax", ["y"], ["z"], axis=1)]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    exits = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 2, "h", "w"])]
    graph = helper.make_graph(nodes, "g", [entry], exits, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "their.onnx")
    code, out, err = run("init", "mine", "--teacher", "their.onnx")
    assert (code, err) == (0, "")
    assert "on 2 of these pictures: taken as probabilities" in out
    teacher = load(Path("studies/mine.toml")).run.teacher
    assert teacher is not None
    assert teacher.model_dump(include={"name", "output", "checkpoint"}) == {
        "name": "onnx",
        "output": "probabilities",
        "checkpoint": "their.onnx",
    }
    accepted(run)


def test_what_is_no_teacher_is_one_line_and_nothing_is_written(run: Run) -> None:
    torch.save({"inc.weight": torch.zeros(2)}, "other.pt")
    for file, part in (
        ("other.pt", "of no network that this program knows"),
        ("away.pt", "no such file"),
        ("mine", "a folder"),
    ):
        code, _, err = run("init", "mine", "--teacher", file)
        assert (code, len(err.splitlines())) == (2, 1)
        assert part in err
    assert not Path("studies").exists()
    assert not Path("splits").exists()


def write_network(channels: int, outputs: int, last: str) -> Path:
    """A convolution of one pixel, as ONNX."""
    weight = numpy_helper.from_array(np.full((outputs, channels, 1, 1), 0.3, np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node(last, ["y"], ["z"])]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, "h", "w"])
    exits = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", outputs, "h", "w"])]
    graph = helper.make_graph(nodes, "g", [entry], exits, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "their.onnx")
    return Path("their.onnx")


def test_a_network_of_regions_gives_a_sigmoid_each(run: Run) -> None:
    """Their sums say nothing, where those of classes would have to be 1."""
    for path in Path("mine/masks").iterdir():
        mask = np.zeros((64, 64), np.uint8)
        mask[8:40, 8:40], mask[16:30, 16:30] = 100, 255
        with Image.open(path.parent.parent / "images" / path.name) as image:
            Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST).save(path)
    write_network(3, 3, "Sigmoid")
    regions = "whole=100+255,core=255,rim=100"
    code, out, err = run("init", "mine", "--teacher", "their.onnx", "--regions", regions)
    assert (code, err) == (0, ""), out
    assert "returns 3 channels from" in out
    assert "of these pictures: taken as probabilities" in out


@pytest.mark.parametrize(("channels", "name"), [(1, "slice.npz"), (4, "four.png")])
def test_a_network_is_tried_on_pictures_as_the_data_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, channels)).astype(np.uint8)
    if channels == 1:
        np.savez(name, image=pixels[..., 0] / 255, label=pixels[..., 0] > 99)
    else:
        Image.fromarray(pixels).save(name)
    read = Reading(None, ("ground", "object"), channels, 8, None).image
    network = write_network(channels, 2, "Identity")
    seen = inspect(network, channels=channels, classes=2, pictures=[Path(name)], size=64, read=read)
    assert any("on 1 of these pictures: taken as logits" in remark for remark in seen.remarks)
