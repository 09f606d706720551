"""The study files of the studies that this program grew from: complete, and run as their heads say."""

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from search import __main__ as search_main
from search.answer.power import most_trainings
from search.planning.network_costs import costs
from search.planning.training_work import describe_work, total_work, training_work
from search.report.content.published import published_part
from search.series.members import distinct_teachers
from search.spec.config import MAIN
from search.spec.identity import difference
from search.spec.load import StudySpec, load, probe_runs, record
from tests.studies.trees import TREES
from trainer import __main__ as trainer_main
from trainer.config import VolumeData
from trainer.dry_run import check
from trainer.engine.fit import fit
from trainer.run_file import RunFile
from trainer.series import series_in

FOLDER = Path(__file__).parents[2] / "studies"
KINDS = ("unet-variants", "acf-bckd", "skin-lesion", "polyp-hpo", "selfreg")
FILES = sorted(path.stem for kind in KINDS for path in FOLDER.glob(f"{kind}-*.toml"))
POLYPS = [name for name in FILES if name.startswith("polyp-hpo-")]
SERIES = "unet-kd-series"
PARTS = ("Data: ", "Cost: ", "What differs from the ", "The same as there: ")


def head(name: str) -> str:
    """The comment at the beginning of a file, without its signs."""
    text = (FOLDER / f"{name}.toml").read_text().partition("\n[")[0]
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in text.splitlines())


def studies(name: str) -> list[Path]:
    """The studies of a file: itself, or the members of a series."""
    series = series_in(FOLDER / f"{name}.toml")
    return [FOLDER / f"{name}.toml"] if series is None else [series.path(member) for member in series.members]


def typed(name: str) -> list[list[str]]:
    """The commands of a file's head, split as a shell does."""
    return [shlex.split(line, comments=True)[2:] for line in head(name).splitlines() if line.startswith("  python -m ")]


def test_there_is_a_file_for_each_study_and_its_data() -> None:
    assert len(FILES) >= 11
    assert [name for name in FILES if len(studies(name)) == 2] == [
        "acf-bckd-brats21",
        "acf-bckd-word",
        "skin-lesion-isic2016",
    ]
    assert {"unet-variants-isic2018", "skin-lesion-isic2016", "polyp-hpo-etis", "selfreg-synapse"} <= set(FILES)


@pytest.mark.parametrize("name", [name for name in (*FILES, SERIES) if name not in POLYPS[1:]])
def test_a_file_resolves_and_all_of_its_networks_and_losses_are_built(name: str) -> None:
    seen: set[tuple[str, str]] = set()
    for path in studies(name):
        for label, run in probe_runs(load(path)):
            teacher = "" if run.teacher is None or not run.methods() else str(run.teacher.name)
            key = (f"{run.method} {teacher}", run.student.model_dump_json())
            if key not in seen:
                seen.add(key)
                facts = check(run)
                assert facts.live_terms, label
    assert len(seen) > 1


@pytest.mark.parametrize("name", [name for name in FILES if name != "acf-bckd-btcv"])
def test_the_head_names_the_data_the_cost_every_difference_and_three_commands_that_run_it(name: str) -> None:
    text, commands, spec = head(name), typed(name), load(studies(name)[0])
    assert all(f"\n{part}" in text for part in PARTS)
    data = spec.run.data.model_dump()
    split, second, work = commands[:3]
    assert split[:3] == ["trainer", "data", "split"]
    assert split[3:8] == [data["root"], "--root", data["root"], "-o", data["split"]]
    assert second in (["trainer", "teach", f"studies/{name}.toml"], ["search", "validate", name])
    assert work == ["search", "work", name]
    for program, *arguments in commands:
        parser = trainer_main.parser() if program == "trainer" else search_main.parser([arguments[0]])
        parser.parse_args(arguments)
    forecast = re.search(r"`search validate (\S+)`\s+forecasts", re.sub(r"\n", " ", text))
    assert forecast is not None
    assert forecast[1] == name


@pytest.mark.parametrize("name", ["selfreg-synapse", SERIES])
def test_the_head_s_operations_are_those_that_validate_counts(name: str) -> None:
    """For as many training images as the head says; several numbers are of the data sets of a series, in order."""
    text = re.sub(r"\s+", " ", head(name))
    printed = re.search(r"Counted, not measured, for ([\d and]+) training \w+ an epoch, .*?: (.*?)\. `validate`", text)
    assert printed is not None
    counts = [int(word) for word in printed[1].split(" and ")]
    specs = [load(path) for path in studies(name)]
    every = {
        spec.name: training_work(
            spec, costs(spec), counts[place * len(counts) // len(specs)], trainings=most_trainings(spec)
        )
        for place, spec in enumerate(specs)
    }
    teaching = sum(every[spec.name].teaching for spec in distinct_teachers(specs))
    assert describe_work(total_work(list(every.values()), teaching=teaching))[0] == printed[2]


@pytest.mark.parametrize(
    "name", [name for name in FILES if len(typed(name)) > 3 and not name.startswith("acf-bckd-btcv")]
)
def test_further_pairs_of_a_head_are_studies_whose_teacher_is_taught_to_the_same_file(name: str) -> None:
    commands = typed(name)[3:]
    assert len(commands) % 2 == 0
    for teach, work in zip(commands[::2], commands[1::2], strict=True):
        given = trainer_main.parser().parse_args(teach[1:])
        wanted = search_main.parser(["work"]).parse_args(work[1:])
        spec = load(FOLDER / f"{name}.toml", wanted.set, name=wanted.name)
        assert spec.run.teacher is not None
        taught = dict(text.split("=", 1) for text in given.set)
        searched = dict(text.removeprefix("run.").split("=", 1) for text in wanted.set)
        shared = taught.keys() & searched.keys()
        assert {"teacher.name", "teacher.checkpoint"} <= shared
        assert {key: taught[key] for key in shared} == {key: searched[key] for key in shared}
        check(spec.run)


def test_the_files_of_polyps_search_the_same() -> None:
    first, *others = (load(FOLDER / f"{name}.toml") for name in POLYPS)
    for other in others:
        assert other.main.space == first.main.space
        for table in ("losses", "student", "optim", "epochs", "batch_size", "precision", "validate"):
            assert getattr(other.run, table) == getattr(first.run, table)
        assert (other.budget, other.pruner, other.confirm) == (first.budget, first.pruner, first.confirm)
        assert len(other.main.enqueue) == len(first.main.enqueue)


@pytest.mark.parametrize("name", ["acf-bckd-word", "acf-bckd-brats21", "skin-lesion-isic2016"])
def test_the_studies_of_two_teachers_differ_in_the_teacher_and_its_pairs_alone(name: str) -> None:
    first, second = (load(path) for path in studies(name))
    lines = difference(record(first), record(second))
    # What `acfd` corrects besides comes with its pairs.
    others = [line for line in lines if not line.startswith(("run.teacher.", "run.losses.acfd.residuals"))]
    assert len(lines) > len(others)
    assert all(re.fullmatch(r'run\.losses\.\S+\.taps?: "acf-bckd-t1" -> "acf-bckd-t2"', line) for line in others)
    assert first.main.space == second.main.space


def test_the_series_of_pairs_teaches_six_teachers_and_asks_each_question_with_and_without() -> None:
    specs = [load(path) for path in studies(SERIES)]
    assert len(specs) == 12
    assert len(distinct_teachers(specs)) == 6
    for taught, alone in zip(specs[::2], specs[1::2], strict=True):
        lines = difference(record(taught), record(alone))
        assert [line for line in lines if not line.startswith("space.losses.kl.")] == ['run.method: "kl" -> "none"']
        assert [p.name for p in alone.space] == ["optim.lr"]
    for program, *arguments in typed(SERIES):
        parser = trainer_main.parser() if program == "trainer" else search_main.parser([arguments[0]])
        parser.parse_args(arguments)


@pytest.mark.parametrize("name", FILES)
def test_published_rows_that_a_file_names_are_there(name: str) -> None:
    for path in studies(name):
        spec = load(path)
        assert spec.published is not None
        part = published_part(json.dumps({"published": spec.published.model_dump(mode="json")}), None)
        assert part is not None
        assert part.missing is None
        assert part.differs
        assert {row.method for row in part.rows} >= set(spec.published.methods)


@pytest.mark.parametrize("file", sorted((FOLDER / "published").glob("*.csv")), ids=lambda path: path.stem)
def test_published_numbers_have_a_source_and_blanks_a_reason(file: Path) -> None:
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows
    for row in rows:
        assert row["source"]
        assert (row["value"] == "") == (row["blank"] != ""), row
        if row["value"]:
            assert 0 <= float(row["value"]) <= 100
    keys = [
        tuple(row[key] for key in ("data", "part", "method", "teacher", "student", "pretrained", "metric"))
        for row in rows
    ]
    assert len(keys) == len(set(keys))


def drawn(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data of a study in its real layout, and its split as the first command of the head draws it."""
    variable, draw = TREES[name.rpartition("-")[2]]
    draw(folder / "data")
    monkeypatch.setenv(variable, str(folder / "data"))
    monkeypatch.chdir(folder)
    (folder / "splits").mkdir()
    arguments = [word.replace(f"${variable}", str(folder / "data")) for word in typed(name)[0]]
    if "--fractions" in arguments:
        arguments[arguments.index("--fractions") + 1] = "0.5,0.25,0.25"
    assert trainer_main.main(arguments[1:]) == 0
    return folder


PICTURES = {
    "run.data.size": 32,
    "run.batch_size": 4,
    "run.epochs": 2,
    "run.teacher.width": 4,
    "run.teacher.min_dice": 0.0,
    "pruner.warmup_epochs": 1,
}
SMALL = {
    "unet-variants-isic2018": PICTURES,
    "unet-variants-segpc2021": PICTURES,
    "acf-bckd-brats21": {
        "run.data.patch": [32, 32, 32],
        "run.batch_size": 2,
        "run.epochs": 2,
        "run.validate.from": 2,
        "run.teacher.width": 4,
        "run.teacher.min_dice": 0.0,
        "run.student.width": 4,
        "pruner.warmup_epochs": 1,
    },
}
"""Study -> what a test changes of it."""


def small(name: str) -> tuple[list[str], StudySpec]:
    sets = [f"{path}={json.dumps(value)}" for path, value in SMALL[name].items()]
    return sets, load(studies(name)[0], sets, name="small")


@pytest.mark.parametrize("name", SMALL)
def test_a_study_is_taught_valid_and_trained_on_a_drawn_tree(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn(name, tmp_path, monkeypatch)
    sets, spec = small(name)
    assert spec.run.teacher is not None
    teach = {**spec.teach, "epochs": 1, "validate": {"from": 1, "every": 1}}
    recipe = RunFile(spec.source, spec.run, teach=teach).teacher_run()
    for _ in fit(recipe, cache=tmp_path / "cache", export=Path(str(spec.run.teacher.checkpoint))):
        pass
    if not isinstance(spec.run.data, VolumeData):  # of these `validate` builds many networks
        flags = [f"--set={text}" for text in sets]
        arguments = ["validate", str(FOLDER / f"{name}.toml"), "--name=small", *flags, "--no-timing"]
        assert search_main.main([*arguments, "--cache", str(tmp_path / "cache")]) == 0, capsys.readouterr().out
        assert "\nok " in capsys.readouterr().out
    run = next(run for label, run in probe_runs(spec) if label.startswith(f"{MAIN}:") and run.methods())
    done = list(fit(run, cache=tmp_path / "cache"))
    assert done[-1].epoch == 2
