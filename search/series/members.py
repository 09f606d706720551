"""The members of a series as study files are: each loaded and checked, and all of them compared. Free of torch."""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.config import NetworkTeacher
from search.spec.identity import difference
from search.spec.load import StudySpec, load
from trainer.errors import UserError
from trainer.repository import STUDIES
from trainer.run_file import RunFile
from trainer.series import Series, series_in


@dataclass(frozen=True)
class SeriesSpec:
    """A series, checked: every member is a study."""

    series: Series
    members: tuple[StudySpec, ...]

    @property
    def name(self) -> str:
        """The series' name."""
        return self.series.name


def series_named(study: str) -> Series | None:
    """The series that a command's word names, by the rules of `search.spec.file.find`; None where it names none.
    Raises UserError."""
    given = Path(study)
    if given.suffix == ".toml" or len(given.parts) > 1:
        return series_in(given)
    for folder in STUDIES:
        path = folder / f"{study}.toml"
        if path.is_file():
            return series_in(path)
    return None


def load_series(series: Series, overrides: Sequence[str] = ()) -> SeriesSpec:
    """Every member, checked, then all of them beside each other. overrides: of each member, as `load` has them. Raises
    UserError in one line, which names the member."""
    specs = tuple(load(series.path(member), overrides) for member in series.members)
    _refuse_idle_parameters(series, specs)
    _refuse_teachers_in_one_file(specs)
    return SeriesSpec(series, specs)


def distinct_teachers(specs: Sequence[StudySpec]) -> list[StudySpec]:
    """The first member with each teacher that this program trains, in the order of the members."""
    first: dict[str, StudySpec] = {}
    for spec in specs:
        if isinstance(spec.run.teacher, NetworkTeacher) and spec.run.teacher.checkpoint is not None:
            first.setdefault(spec.run.teacher.checkpoint, spec)
    return list(first.values())


def each_member(args: argparse.Namespace, names: Sequence[str]) -> Iterator[argparse.Namespace]:
    """The arguments of a command that was given a series, once for every member."""
    if getattr(args, "name", None) is not None:
        raise UserError(f"--name {args.name}: the members of a series have their own names; leave --name out")
    for name in names:
        yield argparse.Namespace(**{**vars(args), "study": name})


def _refuse_idle_parameters(series: Series, specs: Sequence[StudySpec]) -> None:
    """A parameter of the space that no member has a use for is a mistake in the file."""
    idle = Counter(reason for spec in specs for reason in spec.main.dropped)
    for reason, count in idle.items():
        if count == len(specs):
            raise UserError(f"{series.file}: space.{reason}: in no member; remove it, or set what it needs in a member")


def _refuse_teachers_in_one_file(specs: Sequence[StudySpec]) -> None:
    """Two recipes that write one file: whoever is taught last would overwrite the other."""
    recipes: dict[str, tuple[StudySpec, object]] = {}
    for spec in specs:
        teacher = spec.run.teacher
        if not isinstance(teacher, NetworkTeacher) or teacher.checkpoint is None:
            continue
        run = RunFile(spec.source, spec.run, teach=spec.teach).teacher_run().model_dump(mode="json")
        first, recipe = recipes.setdefault(teacher.checkpoint, (spec, run))
        lines = difference(recipe, run) if isinstance(recipe, Mapping) else []
        if lines:
            raise UserError(
                f"{spec.file}: {first.name} and {spec.name} have run.teacher.checkpoint = {teacher.checkpoint!r} for "
                f"two teachers ({'; '.join(lines[:2])}); give each of them a file of its own"
            )
