"""Networks packed in int8 and float16: what is made, what it costs, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import models
import trainer.__main__ as trainer_main
from models.config import SegResNetNetwork
from trainer import checkpoint
from trainer.config import RunConfig
from trainer.data import open_data
from trainer.errors import UserError
from trainer.package.lower_precision import Judged, Recorder, interval_of, lower
from trainer.package.onnx_export import export

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
