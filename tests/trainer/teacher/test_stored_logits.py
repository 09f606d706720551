"""Views: stored logits of a teacher, shared by runs and processes, used as stored whoever computed them."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models.output import Output
from search.commands.preflight import preflight
from search.spec.load import load
from trainer.config import RunConfig
from trainer.data import open_data
from trainer.data.streams.batches import BatchImages
from trainer.distributed.ranks import Ranks
from trainer.dry_run import check
from trainer.engine.cohort import Cohort
from trainer.engine.fit import fit
from trainer.engine.resources import SharedResources, halved
from trainer.reports import EpochReport, Failure, FailureKind, Resume
from trainer.run_file import read
from trainer.teacher import assessment as teachers
from trainer.teacher.stored_logits import CHUNK, StoredLogits, stored_bytes

SIZE, TRAIN, VIEWS, STEPS = 32, 18, 2, 4
DATA = {"name": "blobs", "size": SIZE, "train": TRAIN, "validation": 3, "views": VIEWS}
STUDY = """
[objective]
maximize = "dice"
[run]
method = "kl"
epochs = 2
batch_size = 4
data = {{ name = "blobs", size = 32, train = 18, validation = 3, views = 2 }}
teacher = {{ name = "{name}", width = {width}, checkpoint = "{checkpoint}" }}
student = {{ name = "unet", width = 4 }}
losses = {{ ce = {{}}, kl = {{}} }}
[space]
"optim.lr" = {{ low = 1e-4, high = 1e-2, log = true }}
[budget]
trials = 4
[pruner]
name = "none"
[[arms]]
name = "no-kd"
set = {{ method = "none" }}
"""
CHUNKS = 2
"""Passes of the teacher over a view: 16 images and 2."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A small network trained for one epoch, as a run's teacher table."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    run = make({"name": "unet", "width": 4}, method="none", epochs=1, losses={"ce": {}})
    for _ in fit(run, cache=path.parent, export=path, ranks=Ranks("cpu")):
        pass
    return {"name": "unet", "width": 4, "checkpoint": str(path)}


def make(teacher: dict[str, object], **changes: object) -> RunConfig:
    base = {
        "method": "kl",
        "epochs": 3,
        "batch_size": 4,
        "data": DATA,
        "teacher": teacher,
        "student": {"name": "unet", "width": 4},
        "losses": {"ce": {}, "kl": {}},
    }
    return RunConfig.model_validate(base | changes)


def train(cohort: Cohort, epochs: int, key: int = 0) -> list[EpochReport]:
    told = [cohort.epoch()[key] for _ in range(epochs)]
    assert all(isinstance(report, EpochReport) for report in told), told
    return [dataclasses.replace(report, seconds={}) for report in told if isinstance(report, EpochReport)]


def alone(run: RunConfig, cache: Path, epochs: int | None = None) -> tuple[list[EpochReport], Cohort]:
    cohort = Cohort(Ranks("cpu"), slots=4, cache=cache)
    cohort.admit(0, run)
    return train(cohort, epochs or run.epochs), cohort


def weights(cohort: Cohort, key: int = 0) -> torch.Tensor:
    return cohort._members[key].trained.flat.weights


def files(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.glob("views-*/*.f16")}


def test_a_view_is_computed_once_and_heard_ever_after(teacher, tmp_path):
    """By later epochs, later trials and later processes; the teacher is not run again, nor even loaded."""
    run = make(teacher, epochs=5)
    reports, cohort = alone(run, tmp_path)
    assert cohort.counters.teacher_forwards == VIEWS * CHUNKS
    assert cohort.counters.student_steps == 5 * STEPS
    assert sum(map(len, files(tmp_path).values())) == stored_bytes(run, open_data(run.data, cache=tmp_path))
    again, later = alone(run, tmp_path)
    assert later.counters.teacher_forwards == 0
    assert (cohort.counters.opened, later.counters.opened) == (2, 1)  # the data, and a teacher where it was asked
    assert again == reports
    assert torch.equal(weights(cohort), weights(later))


def test_the_numbers_are_the_same_whether_the_logits_were_there_or_not(teacher, tmp_path):
    """A run that is resumed where nothing is stored equals the uninterrupted one, so do others among neighbours."""
    run = make(teacher, epochs=4)
    reports, whole = alone(run, tmp_path / "one")
    first, begun = alone(run, tmp_path / "two", 1)
    saved = begun.snapshot(0)(tmp_path / "state.pt")
    elsewhere = Cohort(Ranks("cpu"), slots=3, cache=tmp_path / "three")
    elsewhere.admit(0, run, Resume(saved.path, begun.replay(0)))
    elsewhere.admit(1, make(teacher, student={"name": "unet", "width": 6}))
    elsewhere.admit(2, make(teacher, method="none"))
    assert first + train(elsewhere, 3) == reports
    assert torch.equal(weights(elsewhere), weights(whole))
    stored = files(tmp_path / "one")
    assert len(stored) == VIEWS * CHUNKS
    assert stored.items() == files(tmp_path / "three").items()


def test_an_epoch_shows_the_view_of_its_number(teacher, tmp_path):
    """Epoch e shows view e mod V: pictures repeat, their order does not."""
    run = make(teacher)
    resources = SharedResources(Ranks("cpu"), tmp_path)
    free = resources.stream(make(teacher, data={key: DATA[key] for key in DATA if key != "views"}))

    def shown(stream, number: int) -> dict[int, np.ndarray]:
        batches = list(stream.epoch(number))
        return {i: x.numpy() for b in batches for i, x in zip(b.indices, b.images, strict=True)}

    epochs = [shown(resources.stream(run), number) for number in range(3)]
    assert list(epochs[0]) != list(epochs[2])
    both = epochs[0].keys() & epochs[2].keys()
    assert len(both) > TRAIN / 2
    assert all(np.array_equal(epochs[0][index], epochs[2][index]) for index in both)
    assert not all(np.array_equal(epochs[0][i], epochs[1][i]) for i in epochs[0].keys() & epochs[1].keys())
    for number in range(VIEWS):
        unlimited = shown(free, number)
        assert all(np.array_equal(unlimited[index], epochs[number][index]) for index in unlimited)


def test_what_is_heard_is_the_teacher_within_the_rounding_of_float16(teacher, tmp_path):
    run = make(teacher)
    resources = SharedResources(Ranks("cpu"), tmp_path)
    batch = next(iter(resources.stream(run).epoch(0)))
    output = resources.teacher_output(run, 0, batch.indices, BatchImages(torch.empty(0)), frozenset())
    assert output is not None
    direct = resources._view_logits(run, 0, batch.indices, batch.images)
    assert output.logits.dtype == torch.float32
    assert not output.taps
    torch.testing.assert_close(output.logits, direct, rtol=2**-11, atol=1e-6)
    assert not torch.equal(output.logits, direct)


def test_another_teacher_preset_precision_or_seed_has_files_of_its_own(teacher, tmp_path):
    runs = [
        make(teacher),
        make(teacher, precision="bf16"),
        make(teacher, seed=2),
        make(teacher, data=DATA | {"augment": "flips"}),
        make(teacher, data=DATA | {"views": 3}),
    ]
    resources = SharedResources(Ranks("cpu"), tmp_path)
    assert len({resources._views_of(run).folder for run in [*runs, make(teacher, optim={"lr": 0.5})]}) == len(runs)


def test_a_method_that_reads_taps_is_refused_in_one_line(teacher, tmp_path):
    run = make(teacher, method="at", losses={"ce": {}, "at": {"taps": ["mid"]}})
    with pytest.raises(ValueError, match=r"^data.views = 2: .* method 'at' reads its taps mid; .*") as error:
        check(run)
    assert "\n" not in str(error.value)
    cohort = Cohort(Ranks("cpu"), slots=1, cache=tmp_path)
    cohort.admit(0, run)
    assert "reads its taps mid" in cohort.epoch()[0].message


def test_views_that_do_not_fit_on_the_disk_are_refused_before_the_first(teacher, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    cohort = Cohort(Ranks("cpu"), slots=2, cache=tmp_path)
    cohort.admit(0, make(teacher))
    cohort.admit(1, make(teacher, method="none"))
    told = cohort.epoch()
    assert isinstance(told[0], Failure)
    assert told[0].kind is FailureKind.BAD_DATA
    assert told[0].message.startswith("data.views: the teacher's logits take 147,456 more bytes in ")
    assert isinstance(told[1], EpochReport)
    assert not files(tmp_path)


SCRIPT = """
from pathlib import Path
from trainer.engine.cohort import Cohort
from trainer.config import RunConfig
from trainer.distributed.ranks import Ranks
cohort = Cohort(Ranks("cpu"), slots=1, cache=Path({cache!r}))
cohort.admit(0, RunConfig.model_validate_json({run!r}))
print(cohort.epoch()[0].scores["dice"], cohort.counters.teacher_forwards, flush=True)
"""


def test_processes_that_start_together_store_the_same_and_leave_nothing_else(teacher, tmp_path, fork):
    """Nobody waits for a lock; what one makes, the other finds or makes equal."""
    script = SCRIPT.format(cache=str(tmp_path), run=make(teacher, epochs=1).model_dump_json())
    jobs = [fork(script) for _ in range(2)]
    assert [job.wait(120) for job in jobs] == [0, 0], jobs[0].log + jobs[1].log
    said = [job.log.splitlines()[-1].split() for job in jobs]
    assert said[0][0] == said[1][0]
    assert CHUNKS <= sum(int(forwards) for _, forwards in said) <= 2 * CHUNKS
    names = {path.name for path in tmp_path.glob("views-*/*")}
    assert names == {"about.json", "000-00000.f16", "000-00001.f16"}


def test_who_was_slower_hears_what_the_faster_one_stored(teacher, tmp_path):
    run = make(teacher)
    data = open_data(run.data, cache=tmp_path)

    def views(value: float) -> StoredLogits:
        shape = (data.classes, SIZE, SIZE)
        say = lambda _view, indices, _pixels: torch.full((len(indices), *shape), value)  # noqa: E731
        return StoredLogits(tmp_path, run, data, "0" * 64, torch.device("cpu"), say)

    chunk = tuple(range(CHUNK))
    pixels = torch.zeros(CHUNK, SIZE, SIZE, 3, dtype=torch.uint8)
    first, second = views(1.0), views(2.0)
    second._found = lambda *_: False  # type: ignore[method-assign]  # it looked a moment too early
    first.make(0, chunk, pixels)
    second.make(0, chunk, pixels)
    assert second.logits(0, (3, 7), lambda _: pixels).eq(1.0).all()


def test_a_damaged_file_is_computed_again(teacher, tmp_path, log):
    run = make(teacher, epochs=1)
    reports, _ = alone(run, tmp_path)
    whole = files(tmp_path)
    path = next(tmp_path.glob("views-*/000-00001.f16"))
    path.write_bytes(path.read_bytes()[:-2])
    again, cohort = alone(run, tmp_path)
    assert again == reports
    assert cohort.counters.teacher_forwards == 1
    assert files(tmp_path) == whole
    assert any("000-00001.f16 is damaged" in line for line in log)


def test_what_they_take_on_disk_is_said_beforehand(teacher, tmp_path):
    """18 images of 2 views, 2 classes, 32 x 32, two bytes each; a control arm without KD takes nothing."""
    path = tmp_path / "stored.toml"
    path.write_text(STUDY.format(**teacher))
    notes = preflight(load(path), tmp_path).notes
    assert notes == ["data.views: the teacher's logits take 0.000147 GB of each machine's cache folder, computed once"]


def test_the_teacher_itself_is_trained_without_views(teacher, tmp_path):
    path = tmp_path / "stored.toml"
    path.write_text(STUDY.format(**teacher))
    assert read(path, sets=[]).teacher_run().data.views is None


def test_a_wish_to_stop_ends_the_making_of_views(teacher, tmp_path):
    ranks = Ranks("cpu")
    resources = SharedResources(ranks, tmp_path)
    ranks.ask_to_stop()
    resources.prepare(make(teacher), 0)
    assert not files(tmp_path)


@pytest.fixture(params=["bf16", "fp16"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    """The precisions that are not fp32."""
    return request.param


def test_a_teacher_of_halved_weights_says_the_same_bit_for_bit(teacher, tmp_path, precision):
    """autocast would bring them to that precision in every pass."""
    run = make(teacher, precision=precision)
    data = open_data(run.data, cache=tmp_path)
    outputs: list[Output] = []
    images = torch.randn(2, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    for change in (lambda network: network, lambda network: halved(network, precision)):
        network = change(teachers.load(run, data, device=torch.device("cpu")))
        with torch.no_grad(), torch.autocast("cpu", dtype=kinds[precision]):
            outputs.append(network(images))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
