"""What a worker does before its first trial, and that nothing of it is done twice."""

import argparse
import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from search import worker
from search.execution import start
from search.planning.slots import FORECAST
from search.worker import specification
from trainer import checkpoint
from trainer.cli.live_line import LiveLine
from trainer.config import RunConfig
from trainer.data import files, reading
from trainer.data.sets.blobs import draw
from trainer.distributed.ranks import Ranks
from trainer.engine.fit import fit
from trainer.teacher import open as teacher_open

STUDY = """
[objective]
maximize = "dice"
[run]
method = "kl"
epochs = 1
batch_size = 2
[run.data]
name = "polyp"
root = "{root}"
split = "{root}/split.csv"
size = 32
[run.teacher]
name = "unet"
width = 4
checkpoint = "{root}/teacher.safetensors"
[run.student]
name = "unet"
width = 2
[run.losses]
ce = {{}}
kl = {{}}
[space]
"losses.kl.temperature" = {{ low = 1.0, high = 8.0 }}
"student.width" = {{ choices = [2, 3] }}
[sampler]
name = "random"
[budget]
trials = 2
in_flight = 2
[[arms]]
name = "no-kd"
set = {{ method = "none" }}
trials = 1
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study on a few drawn pictures, and its teacher."""
    rows = []
    for index, part in enumerate(("train",) * 4 + ("validation",) * 2 + ("test",)):
        image, label = draw(index if part != "test" else 8, 32)
        cv2.imwrite(str(tmp_path / f"{index}-image.png"), image)
        cv2.imwrite(str(tmp_path / f"{index}-mask.png"), 255 * label)
        rows.append(["A", f"{index}-image.png", f"{index}-mask.png", "", part])
    with (tmp_path / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["source", "image", "mask", "group", "split"], *rows])
    path = tmp_path / "small.toml"
    path.write_text(STUDY.format(root=tmp_path))
    run = specification(argparse.Namespace(study=str(path), set=[], name=None, storage=None)).run
    alone = {"method": "none", "teacher": None, "student": {"name": "unet", "width": 4}}
    teacher = RunConfig.model_validate(run.model_dump(mode="json") | alone)
    for _ in fit(teacher, cache=tmp_path / "cache", export=tmp_path / "teacher.safetensors", ranks=Ranks("cpu")):
        pass
    return path


def flags(study: Path, url: str, *options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--study")
    worker.add_flags(parser)
    folder = study.parent
    places = ["--storage", url, "--runs", str(folder / "runs"), "--cache", str(folder / "cache"), "--note-every", "0"]
    return parser.parse_args(["--study", str(study), *places, *options])


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of the data was hashed, and each file of weights was loaded or hashed."""
    counts: Counter[str] = Counter()

    def counted(inner: Callable[..., object], kind: str) -> Callable[..., object]:
        def call(path: Path, *arguments: object, **options: object) -> object:
            counts[f"{kind} {path.name}"] += 1
            return inner(path, *arguments, **options)

        return call

    monkeypatch.setattr(reading, "file_hash", counted(files.file_hash, "hash"))
    monkeypatch.setattr(teacher_open.checkpoint, "weights", counted(checkpoint.weights, "load"))
    monkeypatch.setattr(teacher_open.checkpoint, "digest", counted(checkpoint.digest, "hash"))
    return counts


@pytest.mark.parametrize("slots", ["2", "auto"])
def test_a_worker_opens_data_and_teacher_once_in_its_life(
    study: Path, sqlite_url: str, readings: Counter[str], slots: str
) -> None:
    """Floor check, timing and training share what was opened; its trials, with a teacher and without, do too."""
    args = flags(study, sqlite_url, "--slots", slots)
    start.work(args, specification(args), Ranks("cpu"), LiveLine())
    assert len(list(args.runs.rglob("best.safetensors"))) == 3, "every trial of both arms was trained"
    names = [f"{index}-{kind}.png" for index in range(7) for kind in ("image", "mask")]
    assert {name: readings[f"hash {name}"] for name in names} == dict.fromkeys(names, 1)
    assert readings["load teacher.safetensors"] == 1
    assert readings["hash teacher.safetensors"] == 0, "what was loaded is hashed from the same bytes"


def test_inputs_name_the_teacher_and_the_slots_that_were_asked_for(study: Path, sqlite_url: str) -> None:
    args = flags(study, sqlite_url, "--slots", "3")
    inputs = start.prepare(args, specification(args), Ranks("cpu"))
    assert inputs.slots.count == 3
    assert FORECAST not in start._environment(inputs)
    assert inputs.teacher is not None
    assert 0 <= inputs.teacher.dice <= 1
    assert inputs.examination is None
    assert set(inputs.identity.arms) == {"kd", "no-kd"}
