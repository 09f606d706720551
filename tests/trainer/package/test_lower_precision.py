"""Networks packed in int8, float16 and bfloat16: what is made, what it costs, and what is refused."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import models
import trainer.__main__ as trainer_main
from models.config import SegResNetNetwork
from models.output import Segmenter
from tests.trainer.volume_files import REGIONS
from tests.trainer.volume_files import run as volumes_run
from trainer import checkpoint
from trainer.config import RunConfig, VolumeData
from trainer.data import open_data
from trainer.errors import UserError
from trainer.package import lower_precision, onnx_export, openvino_runtime
from trainer.package.command import computed_by
from trainer.package.inference import Packed
from trainer.package.lower_precision import Judged, Recorder, interval_of, lower, weighed
from trainer.package.onnx_export import export
from trainer.package.onnx_runtime import Session
from trainer.package.opened import open_package
from trainer.package.volumes import VolumePreprocessing, volume_preprocessing

RUN = {
    "epochs": 1,
    "batch_size": 8,
    "data": {"name": "blobs", "size": 32, "train": 6, "validation": 4, "test": 2, "augment": "none"},
    "student": {"name": "unet", "width": 4},
    "losses": {"ce": {}},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as `trainer fit -o` writes them."""
    folder = tmp_path_factory.mktemp("lower")
    run = RunConfig.model_validate(RUN)
    data = open_data(run.data, cache=folder / "cache")
    torch.manual_seed(3)
    network = models.build(run.student, in_channels=3, classes=2)
    words = {
        "network": run.student.model_dump(mode="json", exclude={"checkpoint"}),
        "channels": 3,
        "classes": 2,
        "data": data.content_hash,
        "train_images": list(data.image_hashes("train")),
        "scores": {"dice": 0.25},
        "epoch": 1,
        "run": run.model_dump(mode="json"),
    }
    checkpoint.export(folder / "student.safetensors", network.state_dict(), words)
    return folder / "student.safetensors"


@pytest.fixture(scope="module", autouse=True)
def _written_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every package here is of the same weights, whose ONNX file takes seconds to write: the first one serves all."""
    first = tmp_path_factory.mktemp("onnx") / "network.onnx"
    written = onnx_export.export

    def export(network: Segmenter, path: Path, **sides: int) -> None:
        if not first.exists():
            written(network, first, **sides)
        shutil.copyfile(first, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "export", export)
        yield


def packed(weights: Path, name: str, *words: str) -> list[str]:
    cache = ["--cache", str(weights.parent / "cache")]
    return ["package", str(weights), str(weights.parent / name), *words, *cache]


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_package_says_what_its_precision_costs(weights, precision, capsys):
    assert trainer_main.main(packed(weights, precision, "--precision", precision, "--margin", "1")) == 0
    printed = capsys.readouterr().out
    folder = weights.parent / precision
    shipped = json.loads((folder / "parity.json").read_text())["shipped"]
    assert shipped["precision"] == precision
    assert shipped["cases"] == 4
    assert shipped["bytes"] == (folder / "network.onnx").stat().st_size < shipped["bytes_float32"]
    assert shipped["lost"] == pytest.approx(shipped["dice_float32"] - shipped["dice"])
    assert shipped["interval"][0] <= shipped["lost"] <= shipped["interval"][1]
    assert shipped["calibrated_on"] == (6 if precision == "int8" else 0)
    verdict = "smaller and faster" if shipped["faster"] else "smaller, not faster"
    card = (folder / "model_card.md").read_text()
    for text in (printed, card):
        assert verdict in text
        assert "in place of" in text
        assert "4 validation images" in text
    assert "computes in float32" not in card
    assert b".py" not in (folder / "network.onnx").read_bytes()
    pictures = weights.parent / "pictures"
    if not pictures.exists():
        from PIL import Image

        from trainer.data.sets.blobs import draw

        pictures.mkdir()
        Image.fromarray(draw(1, 40)[0]).save(pictures / "1.png")
    assert (
        trainer_main.main(["predict", str(folder), str(pictures), "-o", str(weights.parent / f"masks-{precision}")])
        == 0
    )
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        file.name for file in folder.iterdir() if not file.name.startswith(".")
    )


def timed_as(seconds):
    """What `timed` gives on a machine where the second network takes so many of the first one's seconds."""
    return lambda networks, example: np.array([[1.0, seconds]] * 9)


@pytest.fixture(scope="module")
def bf16(weights: Path) -> Path:
    """A package in bfloat16, on a processor that has it, where it is called faster whatever else runs."""
    if importlib.util.find_spec("openvino") is None:  # not imported here: it would say so to its makers
        pytest.skip("needs the extra openvino")
    core = openvino_runtime.need_openvino().Core()
    if openvino_runtime.BF16 not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lower_precision, "timed", timed_as(0.5))
        assert trainer_main.main(packed(weights, "bf16", "--precision", "bf16", "--margin", "1")) == 0
    return weights.parent / "bf16"


def test_a_package_in_bfloat16_is_openvinos_and_differs_by_rounding(bf16):
    shipped = json.loads((bf16 / "parity.json").read_text())["shipped"]
    engine = openvino_runtime.need_openvino()
    assert (shipped["precision"], shipped["openvino"]) == ("bf16", str(engine.__version__).partition("-")[0])
    assert sys.modules["openvino_telemetry"] is None  # what would send a message when openvino is imported
    card = (bf16 / "model_card.md").read_text()
    assert "in place of 1e+03 of onnxruntime an input on one thread: faster, with less in 100% of the turns" in card
    assert "computes in bfloat16 in OpenVINO" in card
    preprocessing = json.loads((bf16 / "preprocessing.json").read_text())
    assert (preprocessing["schema"], preprocessing["computes"]) == (8, "openvino-bf16")
    opened = open_package(bf16)
    images = [np.full((32, 32, 3), value, np.uint8) for value in (10, 200)]
    ours = np.stack(opened.logits(images))
    theirs = np.stack(Packed(opened.preprocessing, Session(bf16 / "network.onnx")).logits(images))
    assert 0 < np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max()


def test_what_does_not_fit_a_package_in_bfloat16_is_one_line(bf16):
    with pytest.raises(UserError, match="computes in OpenVINO, which is not timed here"):
        trainer_main.main(["profile", str(bf16)])
    with pytest.raises(UserError, match="--device cuda: the package computes in OpenVINO on the CPU"):
        open_package(bf16, device="cuda")


def test_bfloat16_that_brings_nothing_is_refused(bf16, monkeypatch):
    monkeypatch.setattr(lower_precision, "timed", timed_as(1.1))
    judged = Judged(2, None)
    for _ in range(2):
        judged.begin()
        judged.add(*np.eye(4, dtype=np.uint8)[None].repeat(3, 0))
    file = bf16 / "network.onnx"
    networks = Session(file, threads=1), openvino_runtime.BFloat16Session(file, threads=1)
    with pytest.raises(UserError, match=r"--precision bf16: brings nothing here \(.*not faster"):
        weighed("bf16", "image", judged, (file, file), networks, [np.zeros((1, 3, 32, 32), np.float32)], 0.005)


def test_a_processor_without_bfloat16_is_named(bf16, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(openvino_runtime, "BF16", "of no processor")
    with pytest.raises(UserError, match="--precision bf16: this processor has no bfloat16; leave --precision out"):
        lower(bf16 / "network.onnx", tmp_path / "out.onnx", "bf16", [])
    opened = open_package(bf16)
    assert "has no bfloat16, and OpenVINO computes in float32" in capsys.readouterr().err
    images = np.ones((1, 3, 32, 32), np.float32)
    np.testing.assert_allclose(opened.network(images), Session(bf16 / "network.onnx")(images), atol=1e-5)


def test_a_package_that_loses_more_than_the_margin_is_refused_and_leaves_nothing(weights, monkeypatch):
    monkeypatch.setattr(Judged, "dice", lambda self: (np.array([0.9, 0.8]), np.array([0.89, 0.78])))
    with pytest.raises(UserError, match=r"int8: loses 0\.0150 Dice, more than --margin 0\.005 .*0\.0100 to 0\.0200"):
        trainer_main.main(packed(weights, "refused", "--precision", "int8"))
    assert not list(weights.parent.glob("*refused*"))


def test_float16_that_onnxruntime_cannot_load_is_refused_with_its_reason(tmp_path):
    network = models.build(SegResNetNetwork(name="segresnet", width=8), in_channels=1, classes=2, size=16, dims=3)
    export(network.eval(), tmp_path / "network.onnx", channels=1, size=(16, 16, 16))
    with pytest.raises(UserError, match=r"fp16: onnxruntime cannot load this network in it \(.*same node name"):
        lower(tmp_path / "network.onnx", tmp_path / "half.onnx", "fp16", [])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--margin", "0.01"], "--margin 0.01: has no effect without --precision"),
        (["--precision", "int8", "--margin", "-1"], "--margin -1: Dice that may be lost, 0 to 1"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(weights, words, line):
    with pytest.raises(UserError, match=line):
        trainer_main.main(packed(weights, "words", *words))


def test_a_network_that_quantisation_does_not_take_is_one_line(tmp_path):
    (tmp_path / "network.onnx").write_bytes(b"no network")
    for precision in ("int8", "fp16"):
        with pytest.raises(UserError, match=f"{precision}: cannot be made of this network") as refusal:
            lower(tmp_path / "network.onnx", tmp_path / "out.onnx", precision, [])
        assert "\n" not in str(refusal.value)


def test_an_interval_needs_two_and_is_always_the_same():
    assert interval_of(np.array([0.1])) is None
    first = interval_of(np.array([0.0, 0.1, 0.2, 0.3]))
    assert first == interval_of(np.array([0.0, 0.1, 0.2, 0.3]))
    assert first is not None
    assert 0.0 <= first[0] < 0.15 < first[1] <= 0.3


def test_every_other_input_is_kept():
    recorder = Recorder(lambda images: images, every=2)
    for value in range(5):
        recorder(np.full((1, 3, 16, 16), value, np.float32))
    assert [float(each.max()) for each in recorder.inputs] == [0.0, 2.0, 4.0]


@pytest.mark.parametrize(("thresholds", "schema"), [((), 4), ((0.4, 0.6), 6)])
def test_packages_for_volumes_say_what_computes_them(thresholds, schema):
    data = {"classes": [], "regions": REGIONS}
    settings = volumes_run(Path("root"), Path("split.csv"), data=data, losses={"bce-dice": {}}).data
    assert isinstance(settings, VolumeData)
    p = volume_preprocessing(settings, thresholds=thresholds, threshold_from="default")
    assert p.schema_ == schema
    other = computed_by(p, "bf16")
    assert (other.schema_, other.computes, other.least) == (9, "openvino-bf16", p.least)
    assert computed_by(p, "int8") == p
    with pytest.raises(ValueError, match="computes: of schema 9 alone"):
        VolumePreprocessing.model_validate({**other.model_dump(mode="json"), "schema": schema})
