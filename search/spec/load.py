"""A study file as a value: `load` reads and checks it, `Arm.resolve` turns a trial's parameters into a run.

Free of torch and optuna, so that commands that only look start at once; `search.commands.preflight` builds what the
file names.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, Literal

from pydantic import InstanceOf, ValidationError

from models.config import Frozen
from search.spec.arms import Arm, check_pruner, control_arm, main_arm, with_enqueued
from search.spec.config import (
    SCORE_NAMES,
    Budget,
    Confirm,
    Dashboard,
    Front,
    Limits,
    Objective,
    PrunerConfig,
    Published,
    SamplerConfig,
    StudyTables,
)
from search.spec.file import find, read
from search.spec.identity import arm_identity, difference, digest, document
from search.spec.overrides import Override, apply, put
from search.spec.proposals import check_sampler, check_spread, check_warm_start
from search.spec.space import Parameter, entries, parse
from search.spec.strategies import WarmStart
from trainer.config import RunConfig
from trainer.config.validation import explain
from trainer.config_paths import Table, flatten, nest
from trainer.data.classes import foreground_of, overlaps
from trainer.errors import UserError, received
from trainer.evaluation.score_names import parse as parse_score
from trainer.run_file import PLACES, RunFile
from trainer.series import SERIES, Member, Series, in_order, member_at

__all__ = ["SCORE_NAMES", "Arm", "StudySpec", "find", "identity", "load", "probe_runs", "record"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # never ".", ".." or what looks like a flag


class SeriesAxis(Frozen):
    """What a member of a product has of one axis."""

    axis: str
    choice: str
    sets: tuple[str, ...]
    """The paths that the axis' choices set."""


class SeriesPlace(Frozen):
    """What a study is in its series."""

    name: str
    number: int
    of: int
    """Members of the series."""
    title: str | None
    axes: tuple[SeriesAxis, ...]
    """Of a product, in the file's order; none of a list."""
    gpu_hours: float | None
    wall_seconds: float | None
    """What the searches of all members together may use."""

    @classmethod
    def of_member(cls, series: Series, member: Member) -> "SeriesPlace":
        """As the file says it."""
        return cls(
            name=series.name,
            number=member.number,
            of=len(series.members),
            title=member.title,
            axes=tuple(
                SeriesAxis(axis=axis, choice=choice, sets=series.sets[axis]) for axis, choice in member.choices.items()
            ),
            gpu_hours=series.table.gpu_hours,
            wall_seconds=series.table.wall_seconds,
        )

    @property
    def choices(self) -> dict[str, str]:
        """Axis -> choice."""
        return {each.axis: each.choice for each in self.axes}

    @property
    def label(self) -> str:
        """What makes a study this member: `data=kvasir, teacher=r18`, or its title; empty where it has neither."""
        return Member(self.name, self.number, {}, self.choices, self.title).label


class StudySpec(Frozen):
    """A study file, checked: every parameter resolves at both ends of its range and under every condition."""

    name: str
    source: Path
    """Its file; of a member of a series the path by which commands take it, where no file lies."""
    series: SeriesPlace | None = None
    """None: a study of its own."""
    overrides: tuple[str, ...] = ()
    """What `--set` changed, as given."""
    dropped: tuple[str, ...] = ()
    """Entries that left a table because `--set`, or the member of a series, gave it another name, and parameters of
    the series' space for which this member has no use, with the reason."""
    objective: Objective
    front: Front | None
    limits: Limits
    run: RunConfig
    teach: dict[str, Any]
    """The nested values of [teach]."""
    sampler: SamplerConfig
    warm_start: WarmStart | None = None
    pruner: PrunerConfig
    budget: Budget
    arms: tuple[InstanceOf[Arm], ...]
    """The main search first, then [[arms]] in the file's order."""
    confirm: Confirm
    dashboard: Dashboard
    published: Published | None = None
    confirms: Any = None
    """The `search.confirm.plan.Plan` of a confirmation; None for a study file."""

    @property
    def file(self) -> Path:
        """The file that it was read from."""
        return self.source if self.series is None else self.source.with_name(f"{self.series.name}.toml")

    @property
    def main(self) -> Arm:
        """The main search, named "kd"."""
        return self.arms[0]

    @property
    def space(self) -> tuple[Parameter, ...]:
        """The main search's parameters."""
        return self.main.space

    def arm(self, name: str) -> Arm:
        """An arm by name. Raises UserError."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UserError(f"{self.source}: arm {name!r}: unknown; known: {', '.join(arm.name for arm in self.arms)}")


def load(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    pretrained: Literal["encoder", "imagenet"] = "encoder",
) -> StudySpec:
    """The study in a file.

    overrides: `PATH=VALUE`, the path as in the file ("run.epochs", "budget.trials", "space.student.width"), the value
    as TOML writes it. name: another study name than the file's; needed where an override changes the identity.
    pretrained: how the images of students are normalised of which the file does not say it.
    Raises UserError in one line.
    """
    member = member_at(path)
    raw = read(path) if member is None else member[0].shared
    where = str(path)
    if SERIES in raw:
        raise UserError(
            f"{path}: is a series of studies; name one of them, such as {path.stem}.1, or give the series to a command "
            "that takes all of them: validate, work, status, confirm, report, export, enqueue, stop, close"
        )
    dropped: tuple[str, ...] = ()
    if member is not None:
        raw, dropped, where = _as_member(*member)
    made = _Origin(path, None if member is None else SeriesPlace.of_member(*member), pretrained)
    study_name = _checked_name(
        name if name is not None else path.stem, where, "--name" if name is not None else "file name"
    )
    if not overrides:
        return _spec(raw, made, study_name, (), dropped, where)
    table, gone = apply(raw, overrides, where)
    place = f"{where} with {' '.join(f'--set {text}' for text in overrides)}"
    spec = _spec(table, made, study_name, tuple(overrides), (*dropped, *gone), place)
    if study_name == path.stem:
        lines = difference(record(_spec(raw, made, study_name, (), dropped, where)), record(spec))
        if lines:
            whole = "" if member is None else f"; or a whole series: set it in a copy of {member[0].file}"
            raise UserError(
                f"{place}: another study than {study_name!r} ({'; '.join(lines[:3])}); "
                f"give it a name of its own: --name {study_name}-2{whole}"
            )
    return spec


def _as_member(series: Series, member: Member) -> tuple[Table, tuple[str, ...], str]:
    """The tables of a member, what left them, and how messages call it. Raises UserError."""
    where = f"{series.file}: {member.called}"
    set_by_it = [
        Override(path, value, f"{where}: {path} = {received(value)}") for path, value in in_order(member.values)
    ]
    table, dropped = put(series.shared, set_by_it, where, "")
    return table, dropped, where


def record(spec: StudySpec, *, data_hash: str | None = None, teacher_hash: str | None = None) -> Table:
    """All that the study's identity depends on; two of them compare with `search.spec.identity.difference`."""
    return document(spec.objective, spec.front, spec.limits, spec.main, data_hash=data_hash, teacher_hash=teacher_hash)


def identity(spec: StudySpec, *, data_hash: str | None, teacher_hash: str | None) -> str:
    """sha256 (hex) of `record`."""
    return digest(record(spec, data_hash=data_hash, teacher_hash=teacher_hash))


def probe_runs(spec: StudySpec) -> Iterator[tuple[str, RunConfig]]:
    """Runs of every arm that together show both ends of every range, every choice and every condition.

    The label tells what is chosen: `kd: method = cwd, student.width = 8`.
    """
    for arm in spec.arms:
        seen: set[str] = set()
        for params in arm.probes():
            label = f"{arm.name}: {', '.join(f'{name} = {value}' for name, value in params.items())}"
            if label not in seen:
                seen.add(label)
                yield label, arm.resolve(params)


@dataclass(frozen=True)
class _Origin:
    """Where a study comes from."""

    path: Path
    series: SeriesPlace | None
    pretrained: Literal["encoder", "imagenet"]


def _spec(
    raw: Mapping[str, Any],
    origin: _Origin,
    name: str,
    overrides: tuple[str, ...],
    dropped: tuple[str, ...],
    where: str,
) -> StudySpec:
    path = origin.path
    try:
        tables = StudyTables.model_validate(raw)
    except ValidationError as error:
        raise UserError(explain(error, where, model=StudyTables)) from None
    arms = _arms(tables, name, where, origin)
    if tables.warm_start is not None:
        check_warm_start(tables.warm_start, arms, name, where)
    teach = nest(tables.teach, f"{where}: teach.")
    run = arms[0].base
    _check_scores(tables, run, where)
    if teach:
        # Where [teach] is wrong, `trainer teach` would say so hours later.
        RunFile(path, run, teach=teach).teacher_run()
    return StudySpec(
        name=name,
        source=path,
        # Under another name it is a study of its own, which the limits of the series do not bind.
        series=origin.series if name == path.stem else None,
        overrides=overrides,
        dropped=(*dropped, *(f"space.{reason}" for reason in arms[0].dropped)),
        objective=tables.objective,
        front=_front_of(arms[0], tables.front) if origin.series is not None else tables.front,
        limits=tables.limits,
        run=run,
        teach=teach,
        sampler=tables.sampler,
        warm_start=tables.warm_start,
        pruner=tables.pruner,
        budget=tables.budget,
        arms=arms,
        confirm=tables.confirm,
        dashboard=tables.dashboard,
        published=tables.published,
    )


def _front_of(main: Arm, given: Front | None) -> Front | None:
    """The front of a member of a series: along the paths for which it has a use."""
    if given is None or not main.front:
        return None
    return Front.model_validate({**given.model_dump(exclude_unset=True), "along": main.front})


def _arms(tables: StudyTables, name: str, where: str, origin: _Origin) -> tuple[Arm, ...]:
    run = nest(tables.run, f"{where}: run.")
    _check_places(tables, where)
    space, member = parse(tables.space, where), origin.series is not None
    main = main_arm(tables, run, space, name, where, origin.pretrained, shrinks=member)
    names = [entry.name for entry in tables.arms]
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice is not None:
        raise UserError(f"{where}: arms.name = {twice!r}: given twice; rename one")
    queue = tables.enqueue if not member else _without_dropped(tables.enqueue, space, main)
    arms = with_enqueued([main, *(control_arm(main, entry, where) for entry in tables.arms)], queue, where)
    for arm in arms:
        check_pruner(arm)
        check_sampler(arm)
        check_spread(tables.front, arm)
        _check_both_ends(arm)
    return tuple(changed(arm, identity=arm_identity(arm)) for arm in arms)


def _without_dropped(
    entries: Sequence[Mapping[str, Any]], space: Sequence[Parameter], main: Arm
) -> tuple[Mapping[str, Any], ...]:
    """[[enqueue]] of a series without the values for which a member has no parameter; what is empty then goes."""
    left = {key for p in main.space for key in (p.name, p.path)}
    gone = {key for p in space for key in (p.name, p.path)} - left
    kept = ({path: value for path, value in flatten(entry).items() if path not in gone} for entry in entries)
    return tuple(entry for entry in kept if entry.keys() - {"arm"})


def _check_scores(tables: StudyTables, run: RunConfig, where: str) -> None:
    """The scores that a study names are of classes that its data has. Raises UserError."""
    names = [known.name for known in foreground_of(run.data)]
    # With two classes the mean over foreground classes is the score of the one.
    foreground = names if len(names) > 1 else []
    for field, score in (
        (tables.objective.direction, tables.objective.metric),
        ("metric", tables.confirm.choose.metric),
    ):
        table = "confirm.choose" if field == "metric" else "objective"
        try:
            parse_score(score, foreground, regions=overlaps(run.data))
        except ValueError as error:
            raise UserError(f"{where}: {table}.{field} = {error}") from None


def _check_places(tables: StudyTables, where: str) -> None:
    """One search has one data set and one teacher: they are checked and hashed once, for all arms. Raises UserError."""
    given = [("space", path) for path in entries(tables.space, where)]
    given += [(f"arms.{entry.name}.set", path) for entry in tables.arms for path in flatten(entry.set)]
    for table, path in given:
        if path in PLACES or path == "data.name":
            raise UserError(f"{where}: {table}.{path}: all arms share one data set and one teacher; set it in [run]")


def _check_both_ends(arm: Arm) -> None:
    """Resolve every probe, and see that the run holds each value as the space has it. Raises UserError."""
    for params in arm.probes():
        flat = flatten(arm.resolve(params).model_dump(mode="json"))
        for name, value in params.items():
            path = arm.parameter(name).path
            read = flat.get(path)
            if type(read) is not type(value) and not (type(value) is int and isinstance(read, float)):
                raise UserError(
                    f"{arm.where}: space.{name} = {received(value)}: read as {received(read)}; "
                    f"write the {type(read).__name__} itself"
                )


def _checked_name(name: str, where: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: {what} = {received(name)}: a study's name is 1 to 128 letters, digits, '.', '_' and '-'"
        )
    return name
