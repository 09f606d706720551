"""Teachers of volumes that other programs made: whole networks in a file, and what a file is found to be."""

import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import models
from models.config import network_config
from tests.trainer.volume_files import REGIONS, drawn_cases, run
from trainer.config import RunConfig
from trainer.data import DataSet, open_data
from trainer.data.streams.batches import BatchImages
from trainer.distributed.ranks import Ranks
from trainer.engine.fit import fit
from trainer.engine.resources import SharedResources
from trainer.teacher import open as opened
from trainer.teacher.inspection import Inspection, inspect, students_below

pytest.importorskip("nibabel")
CPU = torch.device("cpu")
WEIGHTS = np.array([-1.0, 0.5, 2.0], np.float32).reshape(3, 1, 1, 1, 1)
"""Of a convolution of one voxel from one channel to three classes."""
PATCH = (16, 16, 8)


def write_onnx(path: Path, *, sides: tuple[int | str, ...] = ("x", "y", "z"), last: str = "Identity") -> Path:
    nodes = [helper.make_node("Conv", ["i", "w"], ["y"]), helper.make_node(last, ["y"], ["o"])]
    entries, exits = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", channels, *sides])]
        for name, channels in (("i", 1), ("o", 3))
    )
    graph = helper.make_graph(
        nodes, "g", entries, exits, [numpy_helper.from_array(WEIGHTS.reshape(3, 1, *[1] * len(sides)), "w")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("volumes")
    drawn_cases(root)
    return root


def taught_by(root: Path, teacher: dict[str, object], **changes: object) -> RunConfig:
    losses = {"ce": {}, "kl": {}}
    return run(root, root / "split.csv", teacher=teacher, method="kl", losses=losses, epochs=1, **changes)


@pytest.fixture(scope="module")
def data(cases: Path) -> DataSet:
    return open_data(taught_by(cases, {"name": "tiny-unet-3d"}).data, cache=cases / "cache")


def table(path: Path, **options: object) -> dict[str, object]:
    kind = {"name": "export", "trust": True} if path.suffix == ".pt2" else {"name": "onnx"}
    return {**kind, "checkpoint": str(path), "output": "logits"} | options


def logits_of(config: RunConfig, data: DataSet, patches: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = opened.opened(config, data, device=CPU).network(patches).logits
    return logits


def test_a_network_in_a_file_gets_patches_as_they_are_prepared(cases, data, tmp_path):
    patches = torch.randn(3, 1, *PATCH)
    expected = patches * torch.from_numpy(WEIGHTS[:, 0])[None]
    plain = taught_by(cases, table(write_onnx(tmp_path / "t.onnx")))
    assert torch.allclose(logits_of(plain, data, patches), expected, atol=1e-6)
    shifted = taught_by(cases, table(tmp_path / "t.onnx", mean=[0.5], std=[2.0]))
    moved = (patches - 0.5) / 2 * torch.from_numpy(WEIGHTS[:, 0])[None]
    assert torch.allclose(logits_of(shifted, data, patches), moved, atol=1e-6)
    soft = table(write_onnx(tmp_path / "s.onnx", last="Softmax"), output="probabilities")  # over the last axis
    network = nn.Conv3d(1, 3, 1, bias=False).eval()
    network.weight.data = torch.from_numpy(WEIGHTS)
    program = torch.export.export(network, (patches,), dynamic_shapes=({0: torch.export.Dim("n", max=8)},))
    torch.export.save(program, tmp_path / "t.pt2")
    both = table(tmp_path / "t.pt2")
    assert torch.allclose(logits_of(taught_by(cases, both), data, patches), expected, atol=1e-6)
    mean = taught_by(cases, {"name": "ensemble", "members": [both, both]})
    assert torch.allclose(logits_of(mean, data, patches).softmax(1), expected.softmax(1), atol=1e-6)
    with pytest.raises(opened.CheckpointError, match=r"the classes of .*s\.onnx do not add up to 1"):
        logits_of(taught_by(cases, soft), data, patches)


@pytest.mark.parametrize(
    ("sides", "options", "message"),
    [
        ((32, 32, 32), {}, r"takes patches of 32 x 32 x 32 voxels alone, not 16 x 16 x 8, .* set data.patch to 32"),
        (("x", "y", "z"), {"pixels": "0-255"}, r'teacher.pixels = "0-255": .* is given patches of volumes'),
        (("x", "y", "z"), {"colours": "bgr"}, r'teacher.colours = "bgr": .* is given patches of volumes'),
        (("x", "y"), {}, r"expected float patches \(N, 1, X, Y, Z\)"),
    ],
)
def test_what_does_not_suit_volumes_is_one_line(cases, data, tmp_path, sides, options, message):
    config = taught_by(cases, table(write_onnx(tmp_path / "t.onnx", sides=sides), **options))
    with pytest.raises(opened.CheckpointError, match=message):
        opened.opened(config, data, device=CPU)


@pytest.mark.parametrize("views", [None, 1])
def test_a_student_learns_from_it_with_and_without_views(cases, tmp_path, views):
    teacher = table(write_onnx(tmp_path / "t.onnx", sides=PATCH))
    reports = list(fit(taught_by(cases, teacher, data={"views": views}), cache=cases / "cache", ranks=Ranks("cpu")))
    assert reports[-1].losses["kl"] > 0


@pytest.mark.parametrize("change", [{"foreground": 0.9}, {"patches": 3}, {"patch": [8, 16, 16]}])
def test_patches_that_lie_elsewhere_have_logits_of_their_own(cases, tmp_path, change):
    """Stored logits in one cache are never those of another study's patches."""
    teacher = table(write_onnx(tmp_path / "t.onnx"))
    for own in ({}, change):
        config = taught_by(cases, teacher, data={"views": 1} | own)
        resources = SharedResources(Ranks("cpu"), cases / "cache")
        resources.prepare(config, 0)
        for batch in resources.stream(config).epoch(0):
            images = BatchImages(batch.images)
            kept = resources.teacher_output(config, 0, batch.indices, images, frozenset())
            now = resources.teacher_forward(config, images, frozenset())
            assert kept is not None
            assert now is not None
            assert torch.equal(kept.logits, now.logits.half().float())


def looked(path: Path, **options: object) -> Inspection:
    return inspect(path, channels=1, classes=3, patch=PATCH, **options)  # type: ignore[arg-type]


def test_a_file_is_looked_into_for_volumes(cases, data, tmp_path):
    found = looked(write_onnx(tmp_path / "t.onnx"))
    assert (found.settings, found.parameters) == ({"name": "onnx", "output": "logits"}, 3)
    assert "on a patch of noise: taken as logits" in found.remarks[0]
    assert "data.recipe" in found.remarks[-1]
    with pytest.raises(opened.CheckpointError, match=r"set data.patch to 24 x 24 x 24 \(give --size 24\)"):
        looked(write_onnx(tmp_path / "f.onnx", sides=(24, 24, 24)))
    for name, options in (("residual-unet-3d", {"width": 4}), ("segresnet", {"width": 8}), ("lcovnet", {"width": 2})):
        network = models.build(network_config(name, **options), in_channels=1, classes=3, dims=3)
        torch.save(network.state_dict(), tmp_path / "w.pt")
        found = looked(tmp_path / "w.pt")
        assert found.settings == {"name": name, **options}
        again = tomllib.loads(found.table()) | {"checkpoint": str(tmp_path / "w.pt")}
        patches = torch.randn(1, 1, 32, 32, 32)
        with torch.no_grad():
            expected = network.eval()(patches).logits
        config = taught_by(cases, again, data={"patch": [32, 32, 32]})
        known = open_data(config.data, cache=cases / "cache")
        assert torch.equal(logits_of(config, known, patches), expected)
    torch.save({"model.0.weight": torch.zeros(4, 1, 3, 3, 3)}, tmp_path / "o.pt")
    with pytest.raises(opened.CheckpointError, match=r"fits none of .* networks; nearest is"):
        looked(tmp_path / "o.pt")


def test_a_teacher_of_this_program_says_itself_what_it_is(cases, tmp_path):
    config = run(cases, cases / "split.csv", epochs=1, student={"name": "tiny-unet-3d", "width": 4})
    for _ in fit(config, cache=cases / "cache", ranks=Ranks("cpu"), export=tmp_path / "t.safetensors"):
        pass
    found = looked(tmp_path / "t.safetensors")
    assert found.settings == {"name": "tiny-unet-3d", "width": 4, "units": 0}
    assert "trained by this program on 3 volumes" in found.remarks[0]
    with pytest.raises(opened.CheckpointError, match="these volumes have 2"):
        inspect(tmp_path / "t.safetensors", channels=2, classes=3, patch=PATCH)
    regions = taught_by(cases, table(write_onnx(tmp_path / "r.onnx")), data={"classes": [], "regions": REGIONS})
    with pytest.raises(opened.CheckpointError, match=r"returns .*, expected patches, 2 channels, and three sides"):
        opened.opened(regions, open_data(regions.data, cache=cases / "cache"), device=CPU)
    assert students_below(4_000_000, channels=1, classes=3, dims=3).widths == (8, 16, 24)
