"""Runs as people have them in files: a study file, an export of a search, or one run as JSON. Free of torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from models.config import NetworkTeacher
from trainer.config import Replay, RunConfig
from trainer.config.validation import explain
from trainer.config_paths import Table, nest, setting, text_of, toml_table
from trainer.errors import UserError, nearest, received
from trainer.series import SERIES, member_at, with_members_run

PLACES = ("data.root", "data.split", "teacher.checkpoint", "teacher.min_dice", "teacher.trust")
"""Values of [run] that change no number of a training: setting these keeps the promise of a replay.

The hash of the data covers every image, mask, part and group, the hash of the teacher its weights, and the floor only
decides whether a training begins. `student.checkpoint` is no place: no hash stands for it, so another file is another
run."""


NETWORKS = ("student.name", "student.encoder", "student.weights")
"""Values that decide which pretrained weights a student starts from."""


def normalised_by_word(table: Table, word: Literal["encoder", "imagenet"] = "encoder") -> Table:
    """A [run] table as people write it, whose student gets this normalisation where the table says nothing of it.

    What a program wrote (stored runs, exports, weights) says it itself, in numbers, and is not changed; before these
    numbers were written, all networks had ImageNet's.
    """
    student = table.get("student")
    if not isinstance(student, Mapping) or not str(student.get("name", "")).startswith("smp-"):
        return table
    if any(student.get(key) is not None for key in ("normalisation", "mean", "std")):
        return table
    return {**table, "student": {**student, "normalisation": word}}


class Entry(BaseModel):
    """One configuration of an export: a run, and what is needed to repeat it bit for bit. Other keys are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rank: PositiveInt
    trial: int | None = None
    run: Table
    replay: Replay = ()
    ranks: PositiveInt | None = None
    threads: PositiveInt | None = Field(default=None, description="of torch, a rank")
    device: str | None = None
    torch: str | None = Field(default=None, description="torch's version")
    libraries: dict[str, str] | None = Field(default=None, description="versions of what makes pixels of pictures")
    numbers: PositiveInt | None = Field(
        default=None, description="as `trainer.engine.changed_numbers` counts; null: the first"
    )
    weights: str | None = Field(
        default=None, description="safetensors file of the best epoch, from the export's folder"
    )
    scores: dict[str, float] = Field(default_factory=dict, description="validation scores of the best epoch, by name")


class Origin(BaseModel):
    """The study of an export."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    metric: str = Field(default="dice", description="the score whose best epoch counts")


class Export(BaseModel):
    """What `search export` writes, as far as a run needs it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    best: list[Entry]
    study: Origin = Origin()


@dataclass(frozen=True)
class RunFile:
    """A run, where it came from, and the teacher's own recipe where the file has one."""

    path: Path
    run: RunConfig
    entry: Entry | None = None
    """The entry that was read, where the file is an export."""
    metric: str = "dice"
    """The score whose best epoch counts; higher is better."""
    teach: Mapping[str, Any] = field(default_factory=dict)
    """The nested values of the study file's [teach] and of `--set teach.PATH=VALUE`."""
    changed: tuple[str, ...] = ()
    """The paths that `--set` changed in the run, places not counted."""

    @property
    def promised(self) -> Entry | None:
        """The exported entry whose scores this run must reach, where one is promised."""
        return self.entry if self.entry and self.entry.scores and not self.changed else None

    def teacher_run(self) -> RunConfig:
        """The run that trains [run.teacher]: the run without KD, the teacher as student, [teach] over it. Raises
        UserError."""
        if self.run.teacher is None:
            raise UserError(f"{self.path}: run.teacher: missing; name the network to be trained as teacher")
        if not isinstance(self.run.teacher, NetworkTeacher):
            raise UserError(
                f"{self.path}: run.teacher.name = {self.run.teacher.name!r}: was trained elsewhere; leave [teach] out"
            )
        for name in ("student", "teacher", "method", "data"):
            if name in self.teach:
                raise UserError(
                    f"{self.path}: teach.{name} = {received(self.teach[name])}: is not the recipe's to change; "
                    f"set run.{'teacher' if name == 'student' else name}"
                )
        student = self.run.teacher.model_dump(exclude={"checkpoint", "min_dice", "keys"})
        if "mean" not in self.run.teacher.model_fields_set:
            student = normalised_by_word({"student": student})["student"]
        table = self.run.model_dump(mode="json", exclude_unset=True) | {"method": "none", "teacher": None}
        # Views are stored for students; the teacher itself sees new augmentations in every epoch.
        table["data"] = {name: value for name, value in table["data"].items() if name != "views"}
        table["student"] = student
        _merge(table, self.teach)
        return _run(table, str(self.path), "teach")


def read(path: Path, *, rank: int | None = None, sets: Sequence[str] = ()) -> RunFile:
    """The run in a file: a study's [run] (its other tables are not looked at, but for [teach]), entry `rank` of an
    export (default 1), or a bare run as JSON.

    `sets` are `PATH=VALUE`, the value as TOML writes it; the path may begin with `run.` or `teach.`. A table is
    merged into that of the file, unless it has another `name`. Raises UserError in one line.
    """
    member = member_at(path)
    content = _parse(path) if member is None else with_members_run(*member)
    if SERIES in content:
        raise UserError(f"{path}: is a series of studies; give one of them, such as {path.with_suffix('.1.toml')}")
    entry, teach, metric, written = None, {}, "dice", False
    if "best" in content:
        entry, metric = _entry(content, path, 1 if rank is None else rank)
        table = nest(entry.run, f"{path}: best.{entry.rank}.run.")
    elif rank is not None:
        raise UserError(f"--rank {rank}: {path} is no export of a search; leave --rank out")
    elif path.suffix == ".json" and "run" not in content:
        table = nest(content, f"{path}: ")
    else:
        table, teach = (nest(_table(content, name, path), f"{path}: {name}.") for name in ("run", "teach"))
        written = True
        if not table:
            raise UserError(f"{path}: run: missing; expected a table [run]{nearest('run', content)}")
    changed = []
    for text in sets:
        (top, *steps), value = _setting(text)
        _put(teach if top == "teach" else table, steps, value, f"--set {text}")
        if top == "run":
            changed.append(".".join(steps))
    where = f"{path} with {' '.join(f'--set {text}' for text in sets)}" if sets else str(path)
    if written or any(path in NETWORKS for path in changed):
        table = normalised_by_word(table)
    run = _run(table, where, "run")
    return RunFile(path, run, entry, metric, teach, tuple(p for p in changed if p not in PLACES))


def _parse(path: Path) -> Table:
    try:
        text = text_of(path.read_bytes(), str(path))
    except OSError as error:
        study = Path("studies", f"{path.name}.toml")
        meant = f"; nearest: {study}" if study.is_file() else ""
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give a study file, an export or a run{meant}"
        ) from error
    try:
        content = json.loads(text) if path.suffix == ".json" else toml_table(text, str(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; give a study file, an export or a run") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}; expected a table")
    return content


def _entry(content: Table, path: Path, rank: int) -> tuple[Entry, str]:
    try:
        export = Export.model_validate(content)
    except ValidationError as error:
        raise UserError(explain(error, str(path), model=Export)) from error
    entries = {entry.rank: entry for entry in export.best}
    if rank not in entries:
        known = ", ".join(map(str, sorted(entries))) or "none, the export is empty"
        raise UserError(f"--rank {rank}: {path} has no such configuration; known: {known}")
    return entries[rank], export.study.metric


def _table(content: Table, name: str, path: Path) -> Table:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise UserError(f"{path}: {name} = {received(table)}: expected a table [{name}]")
    return table


def _run(table: Table, where: str, under: str) -> RunConfig:
    try:
        return RunConfig.model_validate(table)
    except ValidationError as error:
        raise UserError(explain(error, where, under=under)) from error


def _setting(text: str) -> tuple[list[str], object]:
    """The steps of the path, beginning with run or teach, and the value of `PATH=VALUE`."""
    path, value = setting(text)
    if path in ("run", "teach"):
        raise UserError(f"--set {text}: replaces a whole table; name a value in it, such as {path}.epochs=5")
    steps = path.split(".")
    return steps if steps[0] in ("run", "teach") else ["run", *steps], value


def _put(table: Table, steps: Sequence[str], value: object, where: str) -> None:
    """Set a value below nested tables; tables are merged. Raises UserError where a value stands in the way."""
    for step in steps[:-1]:
        table = table.setdefault(step, {})
        if not isinstance(table, dict):
            raise UserError(f"{where}: {'.'.join(steps)}: {step} is a value, {received(table)}, and no table")
    _merge(table, {steps[-1]: value})


def _merge(table: Table, over: Mapping[str, Any]) -> None:
    """Values of `over` in place of those of `table`, table by table; one with another `name` replaces the whole."""
    for key, value in over.items():
        below = table.get(key)
        if (
            isinstance(value, dict)
            and isinstance(below, dict)
            and value.get("name", below.get("name")) == below.get("name")
        ):
            _merge(below, value)
        else:
            table[key] = value
