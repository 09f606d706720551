"""A package says what its weights say, is whole or not there, and runs without torch."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image
from pydantic import TypeAdapter

import models
import trainer.__main__ as trainer_main
from models.config import NetworkConfig
from trainer import checkpoint
from trainer.checkpoint import ready
from trainer.cli.entry import guard
from trainer.config import RunConfig
from trainer.data import open_data
from trainer.data.sets.blobs import draw
from trainer.errors import UserError
from trainer.package import inference, parity
from trainer.package.command import Wish, package
from trainer.package.inference import FILES, SUMS, labels
from trainer.package.model_card import Confirmation, Score
from trainer.package.onnx_export import export
from trainer.package.onnx_runtime import Session
from trainer.package.opened import open_package
from trainer.run_file import read

RUN = {
    "epochs": 1,
    "batch_size": 8,
    "data": {"name": "blobs", "size": 32, "train": 8, "validation": 4, "test": 2, "augment": "none"},
    "student": {"name": "unet", "width": 4},
    "losses": {"ce": {}},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, pictures of many sizes, and one package that the tests share."""
    folder = tmp_path_factory.mktemp("package")
    write_weights(folder / "student.safetensors", RUN)
    (folder / "pictures").mkdir()
    for number, side in enumerate((17, 32, 45, 90, 200)):
        Image.fromarray(draw(number, side)[0]).save(folder / "pictures" / f"{number}.png")
    package(Wish(folder / "student.safetensors", folder / "ship", folder / "cache"))
    return folder


@pytest.fixture(scope="module")
def other(place: Path) -> Path:
    """The folder, with weights of a network whose mean and deviation are not ImageNet's, and their package."""
    if find_spec("segmentation_models_pytorch") is None:
        pytest.skip("the smp extra is not installed")
    network = {"name": "smp-unet", "encoder": "timm-mobilenetv3_small_100", "mean": [0.5] * 3, "std": [0.5] * 3}
    write_weights(place / "half.safetensors", RUN | {"student": network})
    package(Wish(place / "half.safetensors", place / "half", place / "cache"))
    return place


def write_weights(path: Path, table: dict[str, object], seed: int = 7) -> None:
    """Weights as `trainer fit -o` writes them; norms and head are drawn so that masks have both labels."""
    run = RunConfig.model_validate(table)
    data = open_data(run.data, cache=path.parent / "cache")
    torch.manual_seed(seed)
    network = models.build(run.student, in_channels=3, classes=2)
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            buffer.normal_(0.0, 0.3)
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
    checkpoint.export(path, network.state_dict(), words)


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(place)
    return place


def trainer(*words: str) -> int:
    return guard(lambda: trainer_main.main(words))


class TestFolder:
    def test_it_holds_what_it_says_and_the_sums_are_those_of_sha256sum(self, place: Path) -> None:
        assert sorted(file.name for file in (place / "ship").iterdir()) == sorted((*FILES, SUMS))
        done = subprocess.run(
            ["sha256sum", "-c", SUMS], cwd=place / "ship", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout

    def test_two_classes_in_rgb_have_the_keys_that_older_readers_know(self, place: Path) -> None:
        p = json.loads((place / "ship" / inference.PREPROCESSING).read_text())
        assert p["schema"] == 1
        assert set(p) == {"schema", "size", "fit", "channels", "mean", "std", "classes", "threshold", "threshold_from"}
        assert "probability_by_class" not in json.loads((place / "ship" / inference.PARITY).read_text())

    def test_the_run_in_it_trains_again_and_the_weights_are_the_same_file(self, place: Path) -> None:
        assert read(place / "ship" / inference.RUN).run == RunConfig.model_validate(RUN)
        assert (place / "ship" / inference.WEIGHTS).read_bytes() == (place / "student.safetensors").read_bytes()

    def test_the_network_names_no_place_of_this_machine(self, place: Path) -> None:
        content = (place / "ship" / inference.NETWORK).read_bytes()
        assert b".py" not in content
        assert str(Path(__file__).resolve().parents[3]).encode() not in content

    def test_the_card_says_what_is_unknown_and_forbidden(self, place: Path) -> None:
        card = (place / "ship" / inference.CARD).read_text()
        for words in ("Unconfirmed", "Not a medical device", "dice 0.2500", "135,816 parameters", "| test | 2 |"):
            assert words in card
        assert checkpoint.weights(place / "student.safetensors").sha256 in card

    def test_a_confirmed_card_has_the_scores_with_their_intervals(self, place: Path) -> None:
        from trainer.package.command import _facts
        from trainer.package.model_card import card

        made = ready(place / "student.safetensors", device=torch.device("cpu"))
        data = open_data(made.run.data, cache=place / "cache")
        preprocessing = open_package(place / "ship").preprocessing
        found = parity.Parity(**json.loads((place / "ship" / inference.PARITY).read_text()))
        scores = (
            Score("test", 162, "Dice, mean over images and 5 seeds", 0.899, (0.881, 0.912, 0.95)),
            Score("ETIS", 196, "Dice of these weights", 0.5),
            Score("CVC", 9, "Dice", 0.8, (0.2, 1.4, 0.95)),
        )
        said = Confirmation("mine", "kd-1", 13, "It is the smallest.", scores, ("gain +0.016: shown.",))
        text = card(_facts(made, data, preprocessing, found), said)
        assert "| test | 162 | Dice, mean over images and 5 seeds | 0.8990 | 0.8810 to 0.9120 (95%) |" in text
        assert "| ETIS | 196 | Dice of these weights | 0.5000 | not known |" in text
        assert "| 0.8000 | 0.2000 to 1.0000 (95%) |" in text
        assert "- gain +0.016: shown." in text
        assert "nconfirmed" not in text

    def test_nothing_is_written_over(self, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = (inside / "ship" / SUMS).read_bytes()
        assert trainer("package", "student.safetensors", "ship") == 2
        assert "ship: is there already" in capsys.readouterr().err
        assert (inside / "ship" / SUMS).read_bytes() == before

    def test_what_a_killed_command_left_is_named(self, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rest = inside / ".later.17.part"
        rest.mkdir()
        assert trainer("package", "pictures/0.png", "later") == 2
        rest.rmdir()
        assert capsys.readouterr().err.count(".later.17.part: half a package") == 1

    def test_its_weights_are_evaluated_by_its_folder(self, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert trainer("evaluate", "ship", "--cache", "cache", "--no-second-opinion") == 0
        assert "ship/weights.safetensors" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("student.safetensors", "new", "--threshold", "1"), "--threshold 1: a probability between 0 and 1"),
            (("pictures/0.png", "new"), "pictures/0.png: not a safetensors file"),
            (("student.safetensors", "new", "--set", "run.epochs=2"), "needs --data FILE"),
        ],
    )
    def test_a_mistake_is_one_line_and_leaves_nothing(
        self, inside: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
    ) -> None:
        assert trainer("package", *words) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1
        assert not list(inside.glob("*new*"))

    def test_a_network_that_disagrees_is_refused_and_leaves_nothing(
        self, inside: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The ONNX file of other weights stands in for one that was exported wrongly."""
        write_weights(inside / "another.safetensors", RUN, seed=8)
        monkeypatch.setattr("trainer.package.onnx_export.export", lambda *_, **__: _copy(inside / "ship", inside))
        with pytest.raises(UserError, match=r"differ from torch's by .* more than 0.001; no package was written"):
            package(Wish(inside / "another.safetensors", inside / "other", inside / "cache"))
        assert not list(inside.glob("*other"))
        assert not list(inside.glob(".other*"))

    def test_a_changed_file_is_named(self, place: Path, tmp_path: Path) -> None:
        for file in (place / "ship").iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        text = (tmp_path / inference.PREPROCESSING).read_text()
        (tmp_path / inference.PREPROCESSING).write_text(text.replace("0.5,", "0.9,"))
        with pytest.raises(UserError, match=r"preprocessing.json: was changed"):
            open_package(tmp_path)
        (tmp_path / inference.CARD).unlink()
        (tmp_path / inference.PREPROCESSING).write_text(text)
        with pytest.raises(UserError, match=r"model_card.md: .*not whole"):
            open_package(tmp_path)

    def test_a_folder_without_sums_is_no_package(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"no package .*trainer package WEIGHTS DIR"):
            open_package(tmp_path)


def _copy(ship: Path, inside: Path) -> None:
    """Put the network of another package where one is being made."""
    (target,) = inside.glob(".other.*.part")
    (target / inference.NETWORK).write_bytes((ship / inference.NETWORK).read_bytes())


class TestPredict:
    def test_the_package_and_its_weights_give_the_same_masks(self, inside: Path) -> None:
        """But for pixels on the threshold: one in ten thousand."""
        assert trainer("predict", "ship", "pictures", "-o", "by-package") == 0
        assert trainer("predict", "student.safetensors", "pictures", "-o", "by-torch") == 0
        differ = total = 0
        for file in sorted((inside / "pictures").iterdir()):
            one, other = (np.asarray(Image.open(f"{by}/masks/{file.name}")) for by in ("by-package", "by-torch"))
            assert one.shape == np.asarray(Image.open(file)).shape[:2]
            assert set(np.unique(one)) <= {0, 255}
            differ, total = differ + int((one != other).sum()), total + one.size
            assert (inside / "by-package" / "overlays" / file.name).is_file()
        assert differ <= total / 10_000
        assert sum(int(np.asarray(Image.open(f)).max()) for f in (inside / "by-package" / "masks").iterdir()) > 0

    def test_a_higher_threshold_marks_less_in_both(self, inside: Path) -> None:
        picture = np.asarray(Image.open("pictures/3.png"))
        masks = {}
        for by in ("ship", "student.safetensors"):
            for threshold in ("0.3", "0.7"):
                assert trainer("predict", by, "pictures", "-o", f"at-{by}", "--threshold", threshold) == 0
                masks[by, threshold] = np.asarray(Image.open(f"at-{by}/masks/3.png")) > 0
        assert masks["ship", "0.7"].shape == picture.shape[:2]
        for by in ("ship", "student.safetensors"):
            assert masks[by, "0.7"].sum() < masks[by, "0.3"].sum()
        assert (masks["ship", "0.7"] != masks["student.safetensors", "0.7"]).mean() < 1e-3

    def test_a_bad_picture_is_named_and_the_others_are_done(
        self, inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.png").write_bytes(b"nonsense")
        (tmp_path / "in" / "b.png").write_bytes((inside / "pictures" / "0.png").read_bytes())
        assert trainer("predict", "ship", str(tmp_path / "in"), "-o", str(tmp_path / "out")) == 2
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == 1
        assert "a.png: damaged or no picture (cannot identify image file; 8 bytes)" in said.err
        assert "1 masks and overlays" in said.out
        assert "1 of 2 pictures could not be read" in said.out
        assert [file.name for file in (tmp_path / "out" / "masks").iterdir()] == ["b.png"]

    def test_no_torch_is_imported(self, inside: Path) -> None:
        code = (
            "import sys; from trainer.__main__ import main\n"
            "main(['predict', 'ship', 'pictures', '-o', 'apart'])\n"
            "assert 'torch' not in sys.modules"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("ship", "pictures", "--precision", "bf16"), "--precision bf16: a package says itself how it computes"),
            (("ship", "pictures", "--threshold", "0"), "--threshold 0: a probability between 0 and 1"),
            (("pictures", "pictures"), "pictures: no package"),
            (("ship", "nowhere"), "nowhere: no such folder"),
        ],
    )
    def test_a_mistake_is_one_line(
        self, inside: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
    ) -> None:
        assert trainer("predict", *words, "-o", "out") == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"std": [0.2, 0.0, 0.2]}, "std"),
            ({"std": [0.2, -1.0, 0.2]}, "std"),
            ({"mean": [1e308, 0.0, 0.0]}, "mean"),
            (
                {"classes": ["background", "polyp", "tool"], "threshold": None},
                "names 3; the package",
            ),
            ({"size": 200_000}, "size"),
            ({"size": 64}, "the network takes (3, 32, 32)"),
            (None, "preprocessing.json: "),
        ],
    )
    def test_what_a_foreign_package_says_is_checked_before_a_picture_is_read(
        self,
        inside: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        changes: dict[str, Any] | None,
        message: str,
    ) -> None:
        """With sums that fit: whoever changed it wrote those anew."""
        foreign = tmp_path / "foreign"
        shutil.copytree(inside / "ship", foreign)
        path = foreign / inference.PREPROCESSING
        path.write_bytes(b"\xff{" if changes is None else json.dumps(json.loads(path.read_bytes()) | changes).encode())
        (foreign / inference.SUMS).write_text(inference.sums(foreign, inference.FILES))
        assert trainer("predict", str(foreign), "pictures", "-o", str(tmp_path / "out")) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"network": json.dumps({"name": "unet", "width": 4096})}, "weights of another network"),
            ({"network": json.dumps({"name": "unet", "width": -1})}, "width"),
            ({"network": "{no JSON"}, "its metadata 'network' is no JSON"),
            ({"classes": '"two"'}, "classes"),
            ({"classes": "3"}, "weights of another network"),
            ({"channels": "1"}, "weights of another network"),
            ({"run": "[]"}, "RunConfig"),
        ],
    )
    def test_what_foreign_weights_say_of_themselves_is_compared_with_what_they_hold(
        self, inside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], message: str
    ) -> None:
        path = tmp_path / "foreign.safetensors"
        with safetensors.safe_open(inside / "student.safetensors", framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            metadata = file.metadata()
        safetensors.torch.save_file(tensors, path, metadata=metadata | changes)
        assert trainer("predict", str(path), "pictures", "-o", str(tmp_path / "out")) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1

    def test_more_than_two_classes_take_the_likeliest(self) -> None:
        logits = np.array([[[0.0, 3.0]], [[1.0, 2.0]], [[0.5, 4.0]]], np.float32)
        assert labels(logits, ()).tolist() == [[1, 2]]

    def test_a_threshold_is_a_probability(self) -> None:
        odds = np.array([[-0.1, 0.0, 0.1, 2.0]], np.float32)
        logits = np.stack([np.zeros_like(odds), odds])
        assert labels(logits, (0.5,)).tolist() == [[0, 0, 1, 1]]
        assert labels(logits, (0.85,)).tolist() == [[0, 0, 0, 1]]  # the probability of odds 2 is 0.88
        assert labels(logits, (0.9,)).tolist() == [[0, 0, 0, 0]]


class TestNormalisation:
    def test_the_package_says_what_the_network_expects(self, other: Path) -> None:
        p = json.loads((other / "half" / inference.PREPROCESSING).read_text())
        assert (p["mean"], p["std"]) == ([0.5] * 3, [0.5] * 3)
        plain = json.loads((other / "ship" / inference.PREPROCESSING).read_text())
        assert (plain["mean"], plain["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        found = parity.Parity(**json.loads((other / "half" / inference.PARITY).read_text()))
        assert found.probability < 1e-4

    def test_package_and_weights_give_the_same_masks(self, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(other)
        assert trainer("predict", "half", "pictures", "-o", "half-by-package") == 0
        assert trainer("predict", "half.safetensors", "pictures", "-o", "half-by-torch") == 0
        for name in ("0.png", "4.png"):
            one, two = (Path(f"half-by-{way}/masks/{name}").read_bytes() for way in ("package", "torch"))
            assert one == two

    def test_a_package_that_names_another_mean_than_its_network_is_refused(
        self, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from trainer.package import command

        made = command._preprocessing
        plain = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        monkeypatch.setattr(command, "_preprocessing", lambda *given: made(*given).model_copy(update=plain))
        exported = other / "half" / inference.NETWORK  # of these very weights
        monkeypatch.setattr("trainer.package.onnx_export.export", lambda _, path, **__: shutil.copy(exported, path))
        with pytest.raises(UserError, match="differ from torch's"):
            package(Wish(other / "half.safetensors", tmp_path / "wrong", other / "cache"))


class TestNetworks:
    @pytest.mark.parametrize(
        "options",
        [
            {"name": "resunet", "width": 4},
            pytest.param({"name": "smp-deeplabv3plus", "encoder": "resnet18"}, marks=pytest.mark.slow),
        ],
        ids=lambda options: options["name"],
    )
    def test_the_file_says_what_torch_says_for_any_number_of_pictures(
        self, tmp_path: Path, options: dict[str, object]
    ) -> None:
        config: NetworkConfig = TypeAdapter(NetworkConfig).validate_python(options)
        torch.manual_seed(3)
        network = models.build(config, in_channels=3, classes=2).eval()
        export(network, tmp_path / "network.onnx", channels=3, size=32)
        assert_equal_outputs(network, tmp_path / "network.onnx")

    def test_so_does_that_of_a_package_with_an_encoder(self, other: Path) -> None:
        trained = ready(other / "half.safetensors", device=torch.device("cpu"))
        assert_equal_outputs(trained.network, other / "half" / inference.NETWORK)


def assert_equal_outputs(network: torch.nn.Module, file: Path) -> None:
    """What an ONNX file says of one picture, and of three, is what the network says."""
    session = Session(file, threads=1)
    assert session.shape == (3, 32, 32)
    for count in (1, 3):
        images = torch.randn(count, 3, 32, 32)
        with torch.no_grad():
            expected = network(images).logits.numpy()
        given = session(images.numpy())
        assert given.shape == expected.shape
        assert np.abs(given - expected).max() < 1e-4


def test_the_lines_of_the_page_are_true(inside: Path, repository: Path) -> None:
    """The Python of docs/package.md gives the masks of `predict`."""
    (code,) = re.findall(r"```python\n(.*?)```", (repository / "docs" / "package.md").read_text(), re.DOTALL)
    whole = open_package(inside / "ship")
    for name in ("1", "4"):
        (inside / "picture.png").write_bytes((inside / "pictures" / f"{name}.png").read_bytes())
        exec(compile(code, "docs/package.md", "exec"), {})  # noqa: S102 - it is our own page
        mask = cv2.imread("mask.png", cv2.IMREAD_GRAYSCALE) > 0
        (expected,) = whole.masks([np.asarray(Image.open("picture.png"))])
        assert (mask != (expected > 0)).sum() <= mask.size / 10_000
    with contextlib.suppress(FileNotFoundError):
        (inside / "picture.png").unlink()


def test_another_onnx_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "network.onnx").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"network.onnx: onnxruntime cannot load it"):
        Session(tmp_path / "network.onnx")
    with pytest.raises(UserError, match="no such file"):
        Session(tmp_path / "none.onnx")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(UserError, match="--device cuda: this onnxruntime has it not; known: cpu"):
            Session(tmp_path / "network.onnx", device="cuda")
