"""Teachers that other programs made: state dicts, exported networks, stored maps, several as one."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import models
from models.config import PlainNetwork
from search.commands.validate import preflight, preflight_lines
from search.spec.identity import run_document
from search.spec.load import load
from trainer.commands import teach
from trainer.config import RunConfig
from trainer.data import DataSet, open_data
from trainer.data.stream import normalise
from trainer.distributed.ranks import Ranks
from trainer.dry_run import check
from trainer.engine.fit import fit
from trainer.engine.resources import SharedResources
from trainer.errors import CheckpointError, UserError
from trainer.teacher import open as opened
from trainer.teacher.assessment import facts, floor

CPU = torch.device("cpu")
SIZE = 32
DATA = {"name": "blobs", "size": SIZE, "train": 6, "validation": 4, "test": 2, "augment": "standard", "views": 2}
WEIGHTS = np.array([[[[0.02]], [[-0.01]], [[0.005]]]], np.float32)
"""Of the only convolution of the exported networks here, on channels in their order."""


def make(teacher: dict[str, Any], **changes: Any) -> RunConfig:
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
    return open_data(make({"name": "unet"}).data, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def images(data: DataSet) -> torch.Tensor:
    """Five plain pictures (5, S, S, 3) uint8."""
    return torch.from_numpy(np.stack([data.fitted("train", index)[0] for index in range(5)]))


def said(run: RunConfig, data: DataSet, images: torch.Tensor) -> torch.Tensor:
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
    return models.build(PlainNetwork(name="unet", width=4), in_channels=3, classes=classes).eval()


class TestKeys:
    def test_another_naming_one_table_deep_fits_by_pairs_in_order(self, data, images, tmp_path):
        made = network()
        theirs = {
            "module.net." + name.replace("head.", "out."): value
            for name, value in made.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        torch.save({"epoch": 3, "model": {**theirs, "module.aux.weight": torch.zeros(1)}}, tmp_path / "theirs.pt")
        pairs = [["module.", ""], ["net.", ""], ["out.", "head."]]
        run = make({"name": "unet", "width": 4, "checkpoint": str(tmp_path / "theirs.pt"), "keys": pairs})
        found = opened.opened(run, data, device=CPU)
        with torch.no_grad():
            assert torch.equal(found.network(normalise(images)).logits, made(normalise(images)).logits)
        assert "keys match" in found.notes[0]
        assert "unexpected: aux.weight" in found.notes[0]
        assert found.network.taps
        known = floor(run, data)
        assert known.seen is None
        assert known.measured

    def test_a_head_with_one_channel_keeps_its_probabilities(self, data, images, tmp_path):
        made = network(classes=2)
        made.head = nn.Conv2d(4, 1, 1, bias=False)
        torch.save(made.state_dict(), tmp_path / "theirs.pth")
        run = make({"name": "unet", "width": 4, "checkpoint": str(tmp_path / "theirs.pth")})
        with torch.no_grad():
            z = made(normalise(images)).logits[:, 0]
        assert torch.allclose(said(run, data, images).softmax(1)[:, 1], torch.sigmoid(z), atol=1e-6)

    def test_what_does_not_cover_every_parameter_is_refused_by_name(self, data, tmp_path):
        state = network().state_dict()
        state["extra"] = state.pop("head.weight")
        state["encoders.0.0.0.weight"] = torch.zeros(4, 1, 3, 3)
        torch.save(state, tmp_path / "theirs.pt")
        run = make({"name": "unet", "width": 4, "checkpoint": str(tmp_path / "theirs.pt")})
        text = refusal(lambda: opened.opened(run, data, device=CPU))
        for part in (
            "missing: head.weight",
            "unexpected: extra",
            "(4, 1, 3, 3), expected (4, 3, 3, 3)",
            "teacher.keys",
        ):
            assert part in text

    def test_two_keys_for_one_name_are_refused(self, data, tmp_path):
        state = network().state_dict()
        torch.save({**state, "ema.head.weight": state["head.weight"]}, tmp_path / "theirs.pt")
        table = {"name": "unet", "width": 4, "checkpoint": str(tmp_path / "theirs.pt"), "keys": [["ema.", ""]]}
        assert "given twice: head.weight" in refusal(lambda: opened.opened(make(table), data, device=CPU))

    def test_a_file_with_objects_is_refused_and_its_code_never_runs(self, data, tmp_path):
        torch.save(Trap(tmp_path / "sprung"), tmp_path / "theirs.pt")
        run = make({"name": "unet", "width": 4, "checkpoint": str(tmp_path / "theirs.pt")})
        assert "state_dict() alone" in refusal(lambda: opened.opened(run, data, device=CPU))
        assert not (tmp_path / "sprung").exists()


class Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


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


def table(path: Path, **options: Any) -> dict[str, Any]:
    kind = "export" if path.suffix == ".pt2" else "onnx"
    return {"name": kind, "checkpoint": str(path), "pixels": "0-255", "colours": "bgr", "output": "logits"} | options


class TestExported:
    @pytest.mark.parametrize("batch", ["n", 1, 4])
    def test_an_onnx_network_gets_its_own_normalisation_and_any_number_of_images(self, data, images, tmp_path, batch):
        run = make(table(write_onnx(tmp_path / "t.onnx", batch=batch)))
        logits = said(run, data, images)
        assert torch.allclose(logits[:, 1] - logits[:, 0], bytes_network(images), atol=1e-3)
        assert (logits[:, 0] == 0).all()

    def test_mean_and_deviation_stand_in_the_order_of_its_channels(self, data, images, tmp_path):
        path = write_onnx(tmp_path / "t.onnx")
        logits = said(make(table(path, mean=[10.0, 20.0, 30.0], std=[1.0, 2.0, 4.0])), data, images)
        pixels = (images.flip(-1).float() - torch.tensor([10.0, 20.0, 30.0])) / torch.tensor([1.0, 2.0, 4.0])
        wished = (pixels * torch.from_numpy(WEIGHTS[0, :, 0, 0])).sum(-1)
        assert torch.allclose(logits[:, 1], wished, atol=1e-3)

    def test_probabilities_of_a_sigmoid_become_the_same_probabilities(self, data, images, tmp_path):
        path = write_onnx(tmp_path / "t.onnx", last="Sigmoid")
        mine = said(make(table(path, output="probabilities")), data, images).softmax(1)[:, 1]
        assert torch.allclose(mine, torch.sigmoid(bytes_network(images)), atol=2e-6)

    def test_a_fixed_size_is_met_by_resizing_and_said(self, data, images, tmp_path):
        run = make(table(write_onnx(tmp_path / "t.onnx", size=16)))
        found = opened.opened(run, data, device=CPU)
        assert "resized from 32 x 32 to its 16 x 16" in found.notes[0]
        logits = found.network(normalise(images)).logits
        assert logits.shape == (5, 2, SIZE, SIZE)
        rough = nn.functional.avg_pool2d(bytes_network(images)[:, None], 8)
        assert torch.allclose(nn.functional.avg_pool2d(logits[:, 1:], 8), rough, atol=0.5)

    def test_an_output_that_is_not_as_said_is_found_before_anything_listens(self, data, images, tmp_path, log):
        path = write_onnx(tmp_path / "t.onnx")
        text = refusal(lambda: said(make(table(path, output="probabilities")), data, images))
        assert text.startswith('teacher.output = "probabilities"')
        soft = write_onnx(tmp_path / "s.onnx", last="Sigmoid")
        assert "if those are probabilities" in opened.opened(make(table(soft)), data, device=CPU).notes[0]

    def test_what_is_no_network_of_the_kind_is_refused_in_one_line(self, data, tmp_path):
        for name in ("t.onnx", "t.pt2"):
            (tmp_path / name).write_bytes(b"nothing")
            assert "no " in refusal(lambda path=tmp_path / name: opened.opened(make(table(path)), data, device=CPU))
        run = make(table(write_onnx(tmp_path / "u.onnx"), take="aux"))
        assert "returns z" in refusal(lambda: opened.opened(run, data, device=CPU))
        run = make(table(tmp_path / "u.onnx", mean=[1.0, 2.0]))
        assert "teacher.mean" in refusal(lambda: opened.opened(run, data, device=CPU))
        run = make(table(tmp_path / "away.onnx"))
        assert "no such file" in refusal(lambda: opened.opened(run, data, device=CPU))

    def test_weights_beside_the_file_are_part_of_its_hash(self, data, tmp_path):
        config = make(table(write_onnx(tmp_path / "t.onnx", outside=True))).teacher
        assert config is not None
        before = opened.content(config)
        (tmp_path / "weights.bin").write_bytes(b"\0" * (tmp_path / "weights.bin").stat().st_size)
        assert opened.content(config) != before

    def test_a_program_of_torch_export_says_the_same(self, data, images, tmp_path):
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 1, 1, bias=False)
                self.conv.weight.data = torch.from_numpy(WEIGHTS)

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return x.mean((2, 3)), self.conv(x)

        sizes = ({0: torch.export.Dim("n", max=4)},)
        program = torch.export.export(Two().eval(), (torch.zeros(2, 3, SIZE, SIZE),), dynamic_shapes=sizes)
        torch.export.save(program, tmp_path / "t.pt2")
        logits = said(make(table(tmp_path / "t.pt2", take="1")), data, images)
        assert torch.allclose(logits[:, 1], bytes_network(images), atol=1e-3)
        assert "numbered from 0" in refusal(lambda: said(make(table(tmp_path / "t.pt2")), data, images))

    def test_methods_on_taps_are_refused_before_anything_runs(self, tmp_path):
        run = make(table(tmp_path / "t.onnx"), method="at", losses={"ce": {}, "at": {"taps": ["enc1"]}})
        with pytest.raises(
            ValueError, match=r"^teacher.name = 'onnx': has logits alone, and method 'at' reads .* enc1"
        ):
            check(run)

    def test_a_student_learns_from_it(self, data, tmp_path):
        run = make(table(write_onnx(tmp_path / "t.onnx")))
        reports = list(fit(run, cache=tmp_path, ranks=Ranks("cpu")))
        assert reports[-1].losses["kl"] > 0


class TestEnsemble:
    def test_it_is_the_mean_of_probabilities_and_has_no_place_in_an_identity(self, data, images, tmp_path):
        torch.save(network().state_dict(), tmp_path / "a.pt")
        members = [
            {"name": "unet", "width": 4, "checkpoint": str(tmp_path / "a.pt")},
            table(write_onnx(tmp_path / "t.onnx")),
        ]
        run = make({"name": "ensemble", "members": members})
        each = torch.stack([said(make(member), data, images).softmax(1) for member in members])
        assert torch.allclose(said(run, data, images).softmax(1), each.mean(0), atol=1e-6)
        assert run.teacher is not None
        assert opened.content(run.teacher) != opened.content(make(members[0]).teacher)  # type: ignore[arg-type]
        (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
        moved = make({"name": "ensemble", "members": [members[0] | {"checkpoint": str(tmp_path / "b.pt")}, members[1]]})
        assert run_document(moved) == run_document(run)
        assert opened.content(moved.teacher) == opened.content(run.teacher)  # type: ignore[arg-type]
        assert floor(run, data).seen is None

    def test_a_floor_of_a_member_is_refused(self):
        member = {"name": "unet", "checkpoint": "a.pt", "min_dice": 0.5}
        with pytest.raises(ValueError, match="set it beside members"):
            make({"name": "ensemble", "members": [member, member]})


@pytest.fixture
def folder(data: DataSet, tmp_path: Path) -> Path:
    """Maps that are the masks themselves, of all three kinds."""
    for part in ("train", "validation"):
        for index, sample in enumerate(data.samples(part)):
            path = (tmp_path / "maps" / sample.name).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            mask = data.native_mask(part, index)
            if index % 3 == 0:
                cv2.imwrite(str(path), mask * 255)
            elif index % 3 == 1:
                cv2.imwrite(str(path), mask.astype(np.uint16) * 65535)
            else:
                np.save(path.with_suffix(".npy"), mask.astype(np.float32))
    return tmp_path / "maps"


class TestMaps:
    def test_they_are_bent_along_with_the_mask_in_every_view(self, data, folder, tmp_path):
        run = make({"name": "maps", "checkpoint": str(folder)})
        resources = SharedResources(Ranks("cpu"), tmp_path)
        for epoch in (0, 1):
            for batch in resources.stream(run).epoch(epoch):
                heard = resources.teacher_output(run, epoch, batch.indices, torch.empty(0), frozenset())
                assert heard is not None
                inside = batch.masks != 255
                # OpenCV rounds places differently in planes of floats: a pixel here and there is its neighbour's.
                wrong = heard.logits.argmax(1)[inside] != batch.masks.long()[inside]
                assert int(wrong.sum()) <= 0.03 * int((batch.masks == 1).sum())
        assert resources.visible(run) is None

    def test_their_dice_is_that_of_the_maps(self, data, folder):
        known = facts(make({"name": "maps", "checkpoint": str(folder)}), data, whole=True)
        assert (known.dice, known.train_dice, known.seen) == (1.0, 1.0, None)
        assert known.entropy is not None
        assert known.entropy < 0.02

    def test_missing_maps_are_counted_and_named(self, data, folder):
        gone = sorted(folder.rglob("*.png"))
        for path in gone:
            path.unlink()
        text = refusal(lambda: floor(make({"name": "maps", "checkpoint": str(folder)}), data))
        assert "4 train images have no map" in text
        assert "and 1 more" in text

    def test_what_is_no_map_is_refused(self, data, folder):
        run = make({"name": "maps", "checkpoint": str(folder)})
        for path in folder.rglob("*.npy"):
            np.save(path, np.full((4, 4), 7.0))
        assert "from 0 to 1" in refusal(lambda: facts(run, data, whole=True))

    def test_without_views_they_are_refused(self, folder):
        plain = {name: value for name, value in DATA.items() if name != "views"}
        with pytest.raises(ValueError, match=r"needs data\.views"):
            check(make({"name": "maps", "checkpoint": str(folder)}, data=plain))


STUDY = """
[objective]
maximize = "dice"
[run]
method = "kl"
epochs = 1
batch_size = 3
data = {{ name = "blobs", size = 32, train = 6, validation = 4, test = 2 }}
teacher = {{ name = "onnx", checkpoint = "{path}", output = "logits" }}
losses = {{ ce = {{}}, kl = {{}} }}
[space]
"optim.lr" = {{ low = 1e-4, high = 1e-2, log = true }}
[budget]
trials = 2
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(path=tmp_path / "t.onnx"))
    return path


def test_validate_tells_how_good_and_how_sure_a_teacher_is(study, tmp_path):
    write_onnx(tmp_path / "t.onnx")
    found = preflight(load(study), tmp_path)
    assert found["problems"] == []
    found |= {"cost": {"kept_bytes": 0, "running_bytes": 0}, "stored": None}
    line = next(line for line in preflight_lines(found) if line.startswith("teacher"))
    for word in ("validation dice", "measured", "train 0.", "ECE 0.", "entropy 0.", "unknown which images"):
        assert word in line


def test_validate_names_a_missing_file_and_no_command_that_would_not_make_it(study, tmp_path):
    found = preflight(load(study), tmp_path)
    assert found["problems"][0].endswith("no such file; give the path of one that exists")
    assert "run.teacher.checkpoint" in found["problems"][0]


def test_teach_judges_a_teacher_of_elsewhere_and_trains_nothing(study, tmp_path, capsys):
    path = write_onnx(tmp_path / "t.onnx")
    before = path.read_bytes()
    words = dict(
        file=study, set=[], output=None, again=False, ranks=None, threads=None, cache=tmp_path, device="cpu", mirror=[]
    )
    args = argparse.Namespace(**words, outcome=None)
    assert teach.main(args) == 0
    out = capsys.readouterr().out
    assert "ECE" in out
    assert "entropy" in out
    assert "trained elsewhere" in out
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="trained elsewhere"):
        teach.main(argparse.Namespace(**words | {"again": True}, outcome=None))
