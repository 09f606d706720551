"""`python -m trainer` as people use it: every command in a (forked) process of its own, on drawn pictures."""

import csv
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from trainer import checkpoint
from trainer.__main__ import COMMANDS
from trainer.data import read_openings
from trainer.engine.changed_numbers import REVISION

STUDY = """
[run]
method = "kl"
epochs = 2
batch_size = 8
data = {{ name = "blobs", size = 32, train = 16, validation = 9, test = 6, augment = "none" }}
student = {{ name = "unet", width = 4 }}
teacher = {{ name = "unet", width = 8, checkpoint = "{folder}/teacher.safetensors" }}
losses = {{ ce = {{}}, dice = {{}}, kl = {{}} }}
optim = {{ lr = 5e-3, schedule = {{ name = "constant" }} }}
[teach]
epochs = 3
[space]
"optim.lr" = {{ low = 1e-3, high = 1e-2, log = true }}
"""

Trainer = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def trainer(module: Trainer) -> Trainer:
    """`python -m trainer` with some words; `code` is what it must end with."""
    for name in COMMANDS.values():
        import_module(name)  # here once, in place of in every process that is forked from this one

    def run(*words: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
        return module("trainer", *words, code=code)

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study file."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "small.toml").write_text(STUDY.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def taught(place: Path, trainer: Trainer) -> "subprocess.CompletedProcess[str]":
    """The teacher, trained."""
    return trainer("teach", place / "small.toml", "--cache", place / "cache")


@pytest.fixture(scope="module")
def weights(place: Path, taught: object, trainer: Trainer) -> Path:
    """A student, trained under the teacher."""
    path = place / "student.safetensors"
    done = trainer("fit", place / "small.toml", "--cache", place / "cache", "-o", path)
    assert "teacher" in done.stdout
    assert "recorded" in done.stdout
    return path


@pytest.fixture(scope="module")
def export(place: Path, weights: Path) -> Path:
    """An export whose only configuration is that student."""
    return exported(place / "best.json", weights)


def exported(path: Path, trained: Path, **changes: object) -> Path:
    """An export of a trained run, written as a search does."""
    file = checkpoint.weights(trained)
    entry: dict[str, Any] = {
        "rank": 1,
        "trial": 5,
        "run": file.word("run"),
        "replay": [[1, 0]],
        "ranks": 1,
        "threads": 1,
        "device": "cpu",
        "scores": file.word("scores"),
        "weights": str(trained),
    }
    path.write_text(json.dumps({"best": [entry | changes], "study": {"metric": "dice"}}))
    return path


def picture(path: Path) -> Image.Image:
    """A picture, read whole."""
    with Image.open(path) as file:
        file.load()
        return file.copy()


def only_line(done: "subprocess.CompletedProcess[str]") -> str:
    """What stderr says beside lines with a time, which must be one line and no traceback."""
    lines = [line for line in done.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


class TestTeach:
    def test_the_end_says_what_was_measured(self, taught: "subprocess.CompletedProcess[str]", place: Path) -> None:
        file = checkpoint.weights(place / "teacher.safetensors")
        first, second, following = taught.stdout.splitlines()
        assert first.startswith("epoch 3/3  validation dice ")
        assert f"dice {file.word('scores')['dice']:.3f} @ {file.word('epoch')}" in first
        assert f"train dice {file.word('train')['dice']:.3f}" in first
        assert f"ECE {file.word('calibration'):.3f}" in first
        assert f"sha256 {file.sha256[:8]}" in second
        assert "trained on 16 images, none of them validation or test" in second
        assert following == f"next: python -m search validate {place / 'small.toml'}"
        _, begins, *_ = taught.stderr.splitlines()
        assert "training unet, 3 epochs of 16 images at " in begins
        assert "ETA" in taught.stderr

    def test_repeated_there_is_nothing_to_do(self, taught: object, place: Path, trainer: Trainer) -> None:
        file = place / "teacher.safetensors"
        before = file.stat().st_mtime_ns
        done = trainer("teach", place / "small.toml", "--cache", place / "cache")
        assert "nothing to do" in done.stdout
        assert done.stdout.splitlines()[-1].startswith("next: python -m search validate ")
        assert file.stat().st_mtime_ns == before

    def test_a_finished_file_of_another_recipe_is_not_overwritten(
        self, taught: object, place: Path, trainer: Trainer
    ) -> None:
        before = (place / "teacher.safetensors").read_bytes()
        done = trainer("teach", place / "small.toml", "--cache", place / "cache", "--set", "teach.epochs=5", code=2)
        assert "epochs was 3, here 5" in only_line(done)
        assert "--again" in only_line(done)
        assert (place / "teacher.safetensors").read_bytes() == before

    def test_the_remedy_for_a_teacher_below_its_floor_makes_another_one(
        self, taught: object, place: Path, trainer: Trainer, module: Trainer, tmp_path: Path
    ) -> None:
        """What the message names is typed as it stands: the same recipe once more would leave the teacher as it is."""
        (tmp_path / "low.toml").write_text((place / "small.toml").read_text().replace(str(place), str(tmp_path)))
        shutil.copy(place / "teacher.safetensors", tmp_path)
        floor = ("fit", "low.toml", "--cache", place / "cache", "--set", "run.teacher.min_dice=0.999")
        said = only_line(module("trainer", *floor, code=2, cwd=tmp_path))
        assert "min_dice = 0.999" in said
        assert "longer than 3 epochs (epochs in [teach]): python -m trainer teach low.toml --again" in said
        words = said.partition("python -m trainer ")[2].partition(",")[0].split()
        before = checkpoint.weights(tmp_path / "teacher.safetensors")
        module("trainer", *words, "--cache", place / "cache", cwd=tmp_path)
        after = checkpoint.weights(tmp_path / "teacher.safetensors")
        assert (before.word("run")["epochs"], after.word("run")["epochs"]) == (3, 6)
        assert before.sha256 != after.sha256

    def test_what_it_does_is_said_before_torch_is_there(
        self, taught: "subprocess.CompletedProcess[str]", place: Path
    ) -> None:
        first = taught.stderr.splitlines()[0]
        assert first.endswith(f"{place}/small.toml: the teacher of this study; prepared data in {place}/cache")

    @pytest.mark.slow
    def test_killed_it_goes_on_from_its_last_epoch_to_the_same_weights(
        self, place: Path, trainer: Trainer, launch: Callable[..., Any]
    ) -> None:
        long = [
            *("teach", str(place / "small.toml"), "--cache", str(place / "cache"), "--set", "teach.epochs=6"),
            *("--set", "run.data.train=64"),
        ]
        killed, whole = place / "killed.safetensors", place / "whole.safetensors"
        child = launch("trainer", *long, "-o", killed)
        state = place / ".killed.safetensors.teach" / "state.pt"
        deadline = time.monotonic() + 60
        while not state.is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        child.kill()
        assert child.wait() == -signal.SIGKILL, child.log
        assert not killed.exists()
        reached = checkpoint.load(state)["epoch"]
        assert reached < 6
        done = trainer(*long, "-o", killed)
        assert "since it was resumed" in done.stdout
        assert f"epoch {reached + 1}/6" in done.stderr
        assert not state.exists()
        trainer(*long, "-o", whole)
        one, two = (checkpoint.weights(path).tensors for path in (killed, whole))
        assert all(np.array_equal(one[name].numpy(), two[name].numpy()) for name in one)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--set", "run.teacher.name=unett"], ["run.teacher.name = 'unett'", "nearest: unet"]),
            (["--set", "teach.optim.lrr=1"], ["teach.optim.lrr = 1", "nearest: lr"]),
            (["--set", "run.data.size=33"], ["size", "33"]),
            (["--set", "run.batch_size=32"], ["batch_size", "32"]),
            (["--set", "run.teacher.checkpoint='/proc/none/t.safetensors'"], ["/proc/none"]),
            (["--ranks", "0"], ["argument --ranks: '0': expected a whole number of 1"]),
            (["--device", "cuda:77"], ["cuda:77"]),
        ],
    )
    def test_mistakes_are_one_line(self, place: Path, trainer: Trainer, words: list[str], said: list[str]) -> None:
        done = trainer("teach", place / "small.toml", "--cache", place / "cache", *words, code=2)
        assert all(word in only_line(done) for word in said), done.stderr


class TestFit:
    def test_a_replay_of_an_export_is_equal_bit_for_bit(self, export: Path, place: Path, trainer: Trainer) -> None:
        done = trainer("fit", export, "--cache", place / "cache")
        assert "#1 (trial 5): equal, bit for bit" in done.stdout

    def test_a_replay_seeks_its_place_in_the_stream_and_one_that_differs_ends_with_one(
        self, place: Path, weights: Path, trainer: Trainer
    ) -> None:
        later = exported(place / "later.json", weights, replay=[[1, 3]])
        done = trainer("fit", later, "--cache", place / "cache", code=1)
        assert "difference" in done.stdout
        assert "should be equal" in done.stdout

    @pytest.mark.slow
    def test_two_recorded_ranks_are_started_and_other_ranks_are_an_excuse(
        self,
        place: Path,
        taught: object,
        trainer: Trainer,
        launch: Callable[..., Any],
        listening: dict[int, set[str]],
    ) -> None:
        """First as ranks of a torchrun that the user started, from whose variables each knows its place."""
        two = place / "two.safetensors"
        cache = ["--cache", place / "cache"]
        words = ["fit", place / "small.toml", *cache, "--threads", 1, "-o", two]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        where = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = [launch("trainer", *words, **where, RANK=str(n), LOCAL_RANK=str(n)) for n in range(2)]
        assert [rank.wait(200) for rank in ranks] == [0, 0], ranks[0].log
        assert "2 ranks" in ranks[0].log
        export = exported(place / "two.json", two, ranks=2)
        assert "equal, bit for bit" in trainer("fit", export, *cache).stdout
        done = trainer("fit", export, *cache, "--ranks", 1)
        assert "difference" in done.stdout
        assert "ranks: 1 in place of 2" in done.stdout

    def test_a_run_of_an_earlier_version_says_what_has_changed_and_is_excused(
        self, place: Path, weights: Path, trainer: Trainer
    ) -> None:
        run = checkpoint.weights(weights).word("run")
        run = run | {"method": "dist", "losses": run["losses"] | {"dist": {}}}
        done = trainer("fit", exported(place / "earlier.json", weights, run=run), "--cache", place / "cache")
        assert (
            "an earlier version trained this run, and losses.dist.beta has no gradient with two classes" in done.stdout
        )
        assert "; an earlier version trained it" in done.stdout
        now = exported(place / "now.json", weights, run=run, numbers=REVISION)
        assert "earlier" not in trainer("fit", now, "--cache", place / "cache", code=1).stdout

    def test_other_libraries_that_bend_pictures_are_an_excuse(
        self, place: Path, weights: Path, trainer: Trainer
    ) -> None:
        """OpenCV 5 warps without the steps of OpenCV 4, so that augmented pictures differ a little."""
        before = {"albumentations": version("albumentations"), "opencv": "4.13.0"}
        other = exported(place / "other.json", weights, replay=[[1, 3]], libraries=before)
        assert (
            f"; opencv: {cv2.__version__} in place of 4.13.0"
            in trainer("fit", other, "--cache", place / "cache").stdout
        )

    def test_what_set_changes_is_not_compared(self, export: Path, place: Path, trainer: Trainer) -> None:
        done = trainer("fit", export, "--cache", place / "cache", "--set", "epochs=1")
        assert "not compared" in done.stdout
        assert "--set changed epochs" in done.stdout

    def test_a_run_goes_on_where_its_folder_says(self, place: Path, taught: object, trainer: Trainer) -> None:
        words = ["fit", place / "small.toml", "--cache", place / "cache", "--runs", place / "runs"]
        one, two = place / "one.safetensors", place / "again.safetensors"
        first = trainer(*words, "-o", one)
        second = trainer(*words, "-o", two)
        assert "since it was resumed" in second.stdout
        assert "epoch" not in second.stderr
        assert first.stdout.splitlines()[1].split("  ")[1] == second.stdout.splitlines()[1].split("  ")[1]
        assert one.read_bytes() == two.read_bytes()

    @pytest.mark.slow
    @pytest.mark.parametrize(("ranks", "number"), [("1", signal.SIGHUP), ("2", signal.SIGTERM)])
    def test_asked_to_stop_all_ranks_end_in_order_and_the_run_can_go_on(
        self, place: Path, taught: object, ranks: str, number: signal.Signals, launch: Callable[..., Any]
    ) -> None:
        """It is answered at once, and the loss is the epoch that was begun."""
        runs = place / f"stopped-{ranks}"
        words = ["fit", place / "small.toml", "--cache", place / "cache", "--runs", runs]
        child = launch("trainer", *words, "--ranks", ranks, "--set", "epochs=5000")
        deadline = time.monotonic() + 200
        while not list(runs.glob("*/state.pt")) and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send_signal(number)
        assert child.wait() == 130, child.log
        assert child.log.count("asked to stop: ends after this step") == 1
        assert "Traceback" not in child.log
        (state,) = runs.glob("*/state.pt")
        assert checkpoint.load(state)["epoch"] >= 1

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--set", "optim.lr=-1"], ["run.optim.lr = -1", "greater than 0"]),
            (["--set", "method=dist"], ["run.method", "'dist'"]),
            (["--set", "teacher.checkpoint=none.safetensors"], ["none.safetensors", "python -m trainer teach"]),
            (["--set", "teacher.min_dice=1.0"], ["min_dice = 1", "recorded"]),
            (["--set", "teacher.width=4"], ["network", "'width': 8"]),
            (["--rank", "2"], ["--rank 2", "no export"]),
            (["--ranks", "9"], ["--ranks 9", "batch_size"]),
        ],
    )
    def test_mistakes_are_one_line(
        self, place: Path, taught: object, trainer: Trainer, words: list[str], said: list[str]
    ) -> None:
        done = trainer("fit", place / "small.toml", "--cache", place / "cache", *words, code=2)
        assert all(word in only_line(done) for word in said), done.stderr

    def test_a_mistake_that_the_ranks_find_is_one_line_too(self, place: Path, taught: object, trainer: Trainer) -> None:
        words = ["--ranks", "2", "--set", "teacher.min_dice=1.0"]
        done = trainer("fit", place / "small.toml", "--cache", place / "cache", *words, code=2)
        assert "min_dice" in only_line(done)


class TestEvaluate:
    def test_validation_is_scored_and_torchmetrics_agrees(self, weights: Path, place: Path, trainer: Trainer) -> None:
        table, facts = place / "scores.csv", place / "scores.json"
        done = trainer("evaluate", weights, "--cache", place / "cache", "--per-image", table, "--json", facts)
        known = json.loads(facts.read_text())
        assert known["part"] == "validation"
        assert known["trained_on"] == {"identical": 0, "near_identical": 0}
        assert known["scores"] == checkpoint.weights(weights).word("scores")
        rows = list(csv.DictReader(table.read_text().splitlines()))
        assert len(rows) == known["images"] == 9
        assert np.mean([float(row["dice"]) for row in rows]) == pytest.approx(known["scores"]["dice"], abs=1e-12)
        assert "torchmetrics agrees" in done.stdout
        assert "9 images at native size, foreground above threshold 0.5" in done.stdout
        assert known["threshold"] == 0.5
        assert done.stdout.splitlines()[-1] == f"next: python -m trainer predict {weights} FOLDER -o masks"
        assert max(known["torchmetrics"]["mdice"], known["torchmetrics"]["miou"]) < 1e-5

    def test_test_rows_are_opened_with_a_record(
        self, taught: object, weights: Path, place: Path, trainer: Trainer
    ) -> None:
        folder = place / "openings"
        words = [
            "evaluate",
            place / "teacher.safetensors",
            "--cache",
            place / "cache",
            "--openings",
            folder,
            "--no-second-opinion",
        ]
        trainer(*words)
        assert read_openings(folder) == []
        done = trainer(*words, "--open-test")
        assert "test: 6 images" in done.stdout
        assert "opened 0 times before" in done.stdout
        assert "trained on no validation or test image, nor on near-identical ones" in done.stdout
        (opening,) = read_openings(folder)
        assert "teacher.safetensors" in opening.purpose
        digest = checkpoint.weights(place / "teacher.safetensors")
        assert f"sha256 {digest.sha256}, data {digest.word('data')}" in opening.purpose
        assert opening.who
        assert opening.when

    def test_weights_are_scored_on_the_data_of_another_file(self, weights: Path, place: Path, trainer: Trainer) -> None:
        words = ["--data", place / "small.toml", "--set", "data.validation=4", "--no-second-opinion"]
        done = trainer("evaluate", weights, "--cache", place / "cache", *words)
        assert "validation: 4 images" in done.stdout

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["nowhere.safetensors"], "nowhere.safetensors"),
            (["small.toml"], "not a safetensors file"),
            (["student.safetensors", "--set", "data.validation=4"], "needs --data"),
            (["student.safetensors", "--json", "/proc/none/x.json"], "/proc/none/x.json"),
            (
                ["student.safetensors", "--data", "small.toml", "--set", "data.size=40"],
                "data.size = 40: {place}/student.safetensors was made for 32 and does not take it",
            ),
        ],
    )
    def test_mistakes_are_one_line(
        self, weights: Path, place: Path, trainer: Trainer, words: list[str], said: str
    ) -> None:
        words = [str(place / word) if word == "small.toml" else word for word in words]
        done = trainer("evaluate", place / words[0], "--cache", place / "cache", *words[1:], code=2)
        assert said.format(place=place) in only_line(done)


class TestPredict:
    def test_a_folder_of_pictures_gets_masks_and_overlays_at_native_size(
        self, weights: Path, place: Path, trainer: Trainer
    ) -> None:
        folder, out = place / "photographs", place / "masks"
        folder.mkdir()
        sizes = {"a.png": (50, 40), "b.jpg": (33, 64), "b.png": (20, 20)}
        for number, (name, size) in enumerate(sizes.items()):
            noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name)
        (folder / "notes.txt").write_text("no picture")
        done = trainer("predict", weights, folder, "-o", out)
        assert "3 masks" in done.stdout
        for kind in ("masks", "overlays"):
            found = {path.name: picture(path).size for path in (out / kind).iterdir()}
            assert found == {"a.png": (50, 40), "b.jpg.png": (33, 64), "b.png.png": (20, 20)}
        assert set(np.unique(np.asarray(picture(out / "masks" / "a.png")))) <= {0, 255}

    def test_the_grid_of_an_export_shows_teacher_and_student(self, export: Path, place: Path, trainer: Trainer) -> None:
        drawn = place / "grid.png"
        done = trainer("predict", export, "--grid", "-o", drawn, "--cache", place / "cache")
        assert "4 worst, 4 median: image, truth, teacher, student" in done.stdout
        assert picture(drawn).height > 8 * 200

    def test_without_the_teachers_file_the_grid_says_so(self, export: Path, place: Path, trainer: Trainer) -> None:
        words = ["--data", export, "--set", "teacher.checkpoint=elsewhere.safetensors"]
        done = trainer("predict", export, "--grid", "-o", place / "alone.png", "--cache", place / "cache", *words)
        assert "image, truth, student" in done.stdout
        assert "its file is not here" in done.stdout

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["student.safetensors", "-o", "out"], "one of the two"),
            (["student.safetensors", "no-such-folder", "-o", "out"], "no such folder"),
            (["student.safetensors", "empty", "-o", "out"], "holds no picture"),
            (["gone.json", "--grid", "-o", "out"], "python -m trainer fit"),
            (["student.safetensors", "--grid", "-o", "out", "--rank", "1"], "no export"),
            (["student.safetensors", "--grid", "-o", "/proc/none/x.png"], "/proc/none/x.png"),
        ],
    )
    def test_mistakes_are_one_line(
        self, weights: Path, place: Path, trainer: Trainer, words: list[str], said: str
    ) -> None:
        (place / "empty").mkdir(exist_ok=True)
        exported(place / "gone.json", weights, weights="nowhere.safetensors")
        places = [str(place / word) if word in ("empty", "no-such-folder", "out") else word for word in words[1:]]
        done = trainer("predict", place / words[0], *places, "--cache", place / "cache", code=2)
        assert said in only_line(done)


class TestHelp:
    @pytest.mark.parametrize("name", ["teach", "fit", "evaluate", "predict"])
    def test_every_command_has_help_with_an_example(self, trainer: Trainer, name: str) -> None:
        assert f"python -m trainer {name} " in trainer(name, "--help").stdout.partition("example")[2]

    def test_the_commands_are_listed_at_once_without_torch(self, command: Trainer) -> None:
        code = "import sys, trainer.__main__ as m; m.parser(); sys.exit('torch' in sys.modules)"
        command(sys.executable, "-c", code)

    def test_data_commands_are_reached(self, trainer: Trainer) -> None:
        assert "split" in trainer("data", "--help").stdout
