"""A teacher that somebody brings: what its file is, what [run.teacher] has to say, or one line with the remedy."""

import tomllib
from collections import OrderedDict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import models
from models.config import network_config
from models.torchvision_guard import make_importable
from trainer import checkpoint
from trainer.data.sets.blobs import draw
from trainer.data.streams.batches import normalise
from trainer.teacher.inspection import Inspection, inspect, students_below

needs_smp = pytest.mark.skipif(
    find_spec("segmentation_models_pytorch") is None, reason="the smp extra is not installed"
)
SIZE = 64


def looked(path: Path, **options: Any) -> Inspection:
    return inspect(path, channels=3, classes=2, size=SIZE, **options)


def of_package(kind: str = "Unet", encoder: str = "resnet18", **options: Any) -> nn.Module:
    """A network as its authors' package makes it, its weights random."""
    make_importable()
    torch.manual_seed(1)
    package = import_module("segmentation_models_pytorch")
    made: nn.Module = getattr(package, kind)(encoder_name=encoder, encoder_weights=None, **options)
    return made.eval()


def outline(path: Path, kind: str = "Unet", encoder: str = "resnet18", **options: Any) -> Path:
    """Its state dict with the right names and shapes, and no room: every tensor is one number, repeated."""
    with torch.device("meta"):
        state = of_package(kind, encoder, **options).state_dict()
    torch.save({key: torch.zeros(()).expand(tensor.shape) for key, tensor in state.items()}, path)
    return path


def read_back(inspection: Inspection, path: Path) -> dict[str, Any]:
    """The table that a study file gets."""
    return tomllib.loads(inspection.table()) | {"checkpoint": str(path)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        Image.fromarray(draw(number, 40 + 8 * number)[0]).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    return of_package(classes=1)


class TestStateDicts:
    @needs_smp
    @pytest.mark.parametrize("form", ["lightning.ckpt", "parallel.pth", "model.safetensors"])
    def test_a_network_of_the_package_is_read_whatever_stands_before_its_keys(
        self, data, images, tmp_path, taught_by, logits_of, form, theirs
    ):
        before = {"lightning.ckpt": "model.", "parallel.pth": "module.net."}.get(form, "")
        state = OrderedDict((before + key, value) for key, value in theirs.state_dict().items())
        path = tmp_path / form
        if form == "model.safetensors":
            save_file(state, path, {"format": "pt"})
        elif form == "lightning.ckpt":
            state["criterion.weight"] = torch.ones(2)
            torch.save(
                {"epoch": 3, "state_dict": state, "optimizer_states": [], "hyper_parameters": {"lr": 1e-3}}, path
            )
        else:
            torch.save(state, path)
        brought = looked(path)
        pairs = [[before, ""]] if before else []
        assert brought.settings == {
            "name": "smp-unet",
            "encoder": "resnet18",
            "keys": [*pairs, ["segmentation_head.", "head."]],
        }
        assert brought.parameters == 14_328_354
        assert any("one channel (sigmoid)" in remark for remark in brought.remarks)
        assert any("criterion.weight" in remark for remark in brought.remarks) == (form == "lightning.ckpt")
        run = taught_by(read_back(brought, path))
        with torch.no_grad():
            z = theirs(normalise(images))[:, 0]
        assert torch.allclose(logits_of(run, data, images).softmax(1)[:, 1], torch.sigmoid(z), atol=1e-5)

    @needs_smp
    def test_depth_and_kind_of_network_are_read_from_the_shapes(self, tmp_path):
        brought = looked(outline(tmp_path / "deep.pt", "DeepLabV3Plus", "resnet34", classes=2))
        assert (brought.settings["name"], brought.settings["encoder"]) == ("smp-deeplabv3plus", "resnet34")

    @needs_smp
    def test_another_mean_that_an_encoder_expects_is_named_to_be_tried(self, tmp_path):
        brought = looked(outline(tmp_path / "teacher.pt", encoder="dpn68", classes=2))
        assert brought.settings["encoder"] == "dpn68"
        assert "where the Dice is low, try mean = [0.486275, 0.458824, 0.407843] and std" in brought.remarks[-1]

    @needs_smp
    def test_weights_that_were_made_for_another_size_are_refused(self, tmp_path, refusal):
        path = outline(
            tmp_path / "swin_tiny_patch4_window7_224.pt", encoder="tu-swin_tiny_patch4_window7_224", classes=2
        )
        text = refusal(lambda: looked(path, seconds=0.0))
        assert "smp-unet encoder tu-swin_tiny_patch4_window7_224" in text
        assert "size" in text
        brought = inspect(path, channels=3, classes=2, size=224, seconds=0.0)
        assert brought.settings["encoder"] == "tu-swin_tiny_patch4_window7_224"

    @needs_smp
    def test_networks_that_keys_cannot_tell_apart_are_all_named(self, tmp_path):
        path = outline(tmp_path / "unet resnetblur50d or resnet50d.pt", encoder="tu-resnet50d", classes=2)
        brought = looked(path, seconds=0.0)
        assert brought.settings["encoder"] == "tu-resnet50d"
        (remark,) = [remark for remark in brought.remarks if remark.startswith("as well fit: ")]
        assert "smp-unet encoder tu-resnetblur50d. Keys" in remark
        assert "`search validate` scores the teacher" in remark

    @needs_smp
    def test_an_encoder_of_timm_is_looked_up_by_the_name_of_the_file_and_counted(self, tmp_path):
        path = outline(tmp_path / "unet-tu-resnet18.pt", encoder="tu-resnet18", classes=2)
        brought = looked(path, seconds=0.0)
        assert brought.settings["encoder"] == "tu-resnet18"
        assert "it was compared with 1 network (" in brought.remarks[0]
        assert "name the encoder in the file's name" in brought.remarks[0]

    @needs_smp
    @pytest.mark.parametrize(
        ("options", "parts"),
        [
            ({"classes": 5}, ["smp-unet encoder resnet18", "knows 5 classes; these masks have 2"]),
            ({"in_channels": 1}, ["takes 1 channel(s); these pictures have 3"]),
            ({"decoder_channels": (128, 64, 32, 16, 8)}, ["nearest is smp-unet encoder", "of another shape", "ONNX"]),
            ({"kind": "UnetPlusPlus"}, ["nearest is smp-unet encoder resnet18", "unexpected: decoder.blocks.x_0_0"]),
            ({"decoder_attention_type": "scse"}, ["unexpected: decoder.blocks.0.attention", "ONNX"]),
        ],
    )
    def test_what_fits_no_network_is_one_line_with_the_nearest(self, tmp_path, refusal, options, parts):
        text = refusal(lambda: looked(outline(tmp_path / "other resnet18.pt", **options), seconds=0.0))
        assert all(part in text for part in parts), text

    @pytest.mark.parametrize("name", ["unet", "resunet"])
    def test_a_plain_network_is_read_with_its_width(self, data, images, tmp_path, taught_by, logits_of, name):
        torch.manual_seed(2)
        made = models.build(network_config(name, width=6), in_channels=3, classes=2).eval()
        torch.save({f"_orig_mod.{key}": value for key, value in made.state_dict().items()}, tmp_path / "plain.pt")
        brought = looked(tmp_path / "plain.pt")
        assert brought.settings == {"name": name, "width": 6, "keys": [["_orig_mod.", ""]]}
        run = taught_by(read_back(brought, tmp_path / "plain.pt"))
        with torch.no_grad():
            assert torch.equal(logits_of(run, data, images), made(normalise(images)).logits)

    def test_safetensors_with_our_names_and_one_channel_load_as_anothers(
        self, data, images, tmp_path, taught_by, logits_of, network
    ):
        made = network()
        made.head = nn.Conv2d(4, 1, 1, bias=False)
        save_file({key: value.contiguous() for key, value in made.state_dict().items()}, tmp_path / "plain.safetensors")
        brought = looked(tmp_path / "plain.safetensors")
        assert logits_of(taught_by(read_back(brought, tmp_path / "plain.safetensors")), data, images).shape[1] == 2

    def test_two_networks_in_one_file_are_both_named(self, tmp_path, network):
        state = network().state_dict()
        both = {f"{before}.{key}": value for before in ("model", "ema") for key, value in state.items()}
        torch.save(both, tmp_path / "both.pt")
        brought = looked(tmp_path / "both.pt")
        assert brought.settings["keys"] == [["model.", ""]]
        assert "as well fit: the keys that begin with 'ema.'" in brought.remarks[1]

    def test_another_head_is_no_plain_network(self, tmp_path, refusal, network):
        state = network().state_dict()
        torch.save(state | {"head.bias": torch.zeros(2)}, tmp_path / "biased.pt")
        assert "unexpected: head.bias" in refusal(lambda: looked(tmp_path / "biased.pt"))

    def test_keys_of_no_network_of_ours_are_named(self, tmp_path, refusal):
        torch.save({"inc.weight": torch.zeros(2), "down1.weight": torch.zeros(2)}, tmp_path / "milesial.pt")
        text = refusal(lambda: looked(tmp_path / "milesial.pt"))
        assert "begin with inc, down1; export the network as ONNX" in text

    def test_a_teacher_of_this_program_says_itself_what_it_is(self, tmp_path, refusal, network):
        words = {"network": {"name": "unet", "width": 4, "checkpoint": None}, "classes": 2, "channels": 3}
        path = tmp_path / "ours.safetensors"
        checkpoint.export(path, network().state_dict(), words | {"train_images": ["a", "b"]})
        brought = looked(path)
        assert brought.settings == {"name": "unet", "width": 4}
        assert "trained by this program on 2 pictures" in brought.remarks[0]
        checkpoint.export(path, network().state_dict(), words | {"classes": 5})
        assert "trained for 5 classes; these masks have 2" in refusal(lambda: looked(path))
        checkpoint.export(path, network().state_dict(), words | {"network": {"name": "unet", "width": 8}})
        assert "does not fit it" in refusal(lambda: looked(path))
        checkpoint.export(path, network().state_dict(), words | {"network": {"name": "unet", "depth": 8}})
        assert "says it is unet, which cannot be built: " in refusal(lambda: looked(path))


class Holder:
    """An object that a file of torch holds: reading it would import this test."""


class TestFilesThatAreNot:
    def test_a_whole_network_is_refused_with_the_line_that_writes_its_weights(self, tmp_path, refusal):
        torch.save(nn.Sequential(nn.Conv2d(3, 2, 1)), tmp_path / "whole.pt")
        text = refusal(lambda: looked(tmp_path / "whole.pt"))
        assert "holds Python objects (torch.nn.modules.container.Sequential" in text
        assert 'torch.save(torch.load("whole.pt", weights_only=False).state_dict(), "weights.pt")' in text
        torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Holder()}, tmp_path / "lightning.ckpt")
        assert 'weights_only=False)["state_dict"], "weights.pt")' in refusal(
            lambda: looked(tmp_path / "lightning.ckpt")
        )

    def test_programs_with_code_are_named_and_not_opened(self, tmp_path, refusal):
        program = torch.export.export(nn.Conv2d(3, 1, 1).eval(), (torch.zeros(1, 3, 8, 8),))
        torch.export.save(program, tmp_path / "t.pt2")
        brought = looked(tmp_path / "t.pt2")
        assert brought.settings == {"name": "export", "output": "logits"}
        assert "trust = true" in brought.remarks[0]
        assert tomllib.loads(brought.table()) == brought.settings
        assert "\n# trust    = true " in brought.table()
        (tmp_path / "t.pt").write_bytes((tmp_path / "t.pt2").read_bytes())
        assert "give it the ending .pt2" in refusal(lambda: looked(tmp_path / "t.pt"))
        with pytest.warns(DeprecationWarning, match="torch.jit"):
            torch.jit.save(torch.jit.script(nn.Conv2d(3, 1, 1)), tmp_path / "script.pt")
        assert "TorchScript" in refusal(lambda: looked(tmp_path / "script.pt"))

    @pytest.mark.parametrize("ending", [".safetensors", ".pt", ".ckpt", ".onnx", ".pt2"])
    def test_damaged_files_are_one_line(self, tmp_path, refusal, ending):
        path = tmp_path / f"broken{ending}"
        path.write_bytes(b"PK\x03\x04 nothing")
        assert str(path) in refusal(lambda: looked(path))

    def test_what_is_no_file_of_a_known_kind_is_one_line(self, tmp_path, refusal):
        assert "no such file" in refusal(lambda: looked(tmp_path / "away.pt"))
        assert "a folder; name the file in it" in refusal(lambda: looked(tmp_path))
        (tmp_path / "t.h5").touch()
        assert "unknown ending '.h5'; known: .bin, .ckpt" in refusal(lambda: looked(tmp_path / "t.h5"))


def write_two(path: Path, maps: int = 2, classes: int = 1) -> Path:
    """A network with a coarse output, one of a number an image, and a fine one: a sigmoid of a convolution."""
    weight = np.full((classes, 3, 1, 1), 0.5, np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Sigmoid", ["y"], ["fine"]),
        helper.make_node("AveragePool", ["fine"], ["coarse"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ReduceMean", ["fine"], ["label"], axes=[2, 3], keepdims=0),
    ]
    outputs = ["label", "coarse", "fine"][-maps:]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])
    graph = helper.make_graph(nodes, "g", [entry], made, [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


class TestOnnx:
    def test_logits_and_probabilities_are_told_apart_on_pictures(self, tmp_path, write_onnx, pictures):
        soft = looked(write_onnx(tmp_path / "s.onnx", last="Sigmoid"), pictures=pictures)
        assert soft.settings == {"name": "onnx", "output": "probabilities"}
        assert "on 3 of these pictures: taken as probabilities" in soft.remarks[0]
        hard = looked(write_onnx(tmp_path / "t.onnx", size=16, batch=2), pictures=pictures)
        assert hard.settings == {"name": "onnx", "output": "logits"}
        assert hard.parameters == 3
        assert any("takes 16 x 16 pixels alone" in remark for remark in hard.remarks)
        assert 'pixels = "0-255"' in hard.remarks[-1]

    def test_of_several_outputs_the_finest_map_is_taken(self, data, images, tmp_path, taught_by, logits_of, pictures):
        brought = looked(write_two(tmp_path / "two.onnx", maps=3), pictures=pictures)
        assert brought.settings == {"name": "onnx", "output": "probabilities", "take": "fine"}
        assert any("label, coarse, fine" in remark for remark in brought.remarks)
        assert logits_of(taught_by(read_back(brought, tmp_path / "two.onnx")), data, images).shape[1] == 2

    def test_other_channels_and_classes_are_one_line(self, tmp_path, refusal, pictures):
        path = write_two(tmp_path / "five.onnx", maps=1, classes=5)
        assert "expected images, 1 or 2 channels" in refusal(lambda: looked(path, pictures=pictures))
        path = write_two(tmp_path / "two.onnx", classes=5)
        assert "none of its outputs coarse, fine will do" in refusal(lambda: looked(path, pictures=pictures))


class TestTable:
    def test_remarks_are_comments_and_the_rest_is_toml(self):
        remarks = ("a name\nwith a line end " + "and many more letters " * 8,)
        brought = Inspection("x", {"name": "unet", "keys": [["a\n.", ""]]}, remarks, None)
        lines = brought.table().splitlines()
        assert all(line.startswith("#") or " # " in line for line in lines)
        assert max(map(len, lines)) <= 120
        assert tomllib.loads(brought.table()) == brought.settings

    @pytest.mark.parametrize(
        ("parameters", "widths"), [(20_000_000, (8, 16, 24)), (9_000_000, (8, 12, 16)), (9, (2, 4, 6))]
    )
    def test_students_are_small_beside_their_teacher(self, parameters, widths):
        students = students_below(parameters, channels=3, classes=2)
        assert students.widths == widths
        assert students.limit >= students.millions[-1] > students.millions[0] > 0
