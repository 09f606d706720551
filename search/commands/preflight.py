"""What can be known of a study before its first trial: costs, data, teacher, streams and arms. Nothing is stored."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losses.config import IDLE_WITH_TWO_CLASSES, NEEDS_TEACHER
from search.answer.power import DetectableGains, compared_methods, detectable_gains, most_trainings
from search.planning.disk import DiskForecast, disk_forecast
from search.planning.limits import refuse_hopeless, verdict
from search.planning.network_costs import Cost, costs, refuse_large_batches
from search.planning.time_forecast import TimeForecast, time_forecast
from search.planning.training_work import TrainingWork, training_work
from search.spec.arms import Arm
from search.spec.front import choice_shown, title
from search.spec.load import StudySpec, identity, probe_runs
from search.spec.proposals import draw_notes, pruner_notes, sampler_notes, spread_notes
from search.spec.space import Parameter, Scalar, condition, shown
from trainer.cli.progress import Counting
from trainer.config_paths import flatten
from trainer.data import DataError, DataSet, open_data, stream_key
from trainer.data.classes import classes_of, dims_of, opening_work, overlaps
from trainer.data.dataset import Part, examples_an_epoch, foreground_names
from trainer.data.splits.part_sizes import counted_groups, scored_as
from trainer.engine.class_counts import class_pixels, label_pixels
from trainer.errors import UserError, one_line
from trainer.run_file import RunFile

if TYPE_CHECKING:
    from trainer.teacher.assessment import Facts

PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class DataFacts:
    """The images of a study."""

    name: str
    content: str
    """Their hash."""
    images: int
    """Files with masks: pictures, slices, or volumes."""
    parts: Mapping[Part, int]
    """How many images each part has."""
    twice: int
    """How many images are there more than once."""
    near_duplicates: int
    """Pairs of near-identical pictures in two parts."""
    classes: Mapping[str, float] = field(default_factory=dict)
    """The share of each class in the pixels of the training part, where there are several foreground classes."""
    absent: Mapping[Part, Sequence[str]] = field(default_factory=dict)
    """The foreground classes that no pixel of a part has; test rows stay closed."""
    regions: bool = False
    """Whether the classes are regions, which share pixels."""
    volumes: bool = False
    """Whether what is counted are cases of voxels."""
    cases: int | None = None
    """Where volumes, or the slices of one together, are scored: how many there are."""


@dataclass(frozen=True)
class Streams:
    """What the arms of a study need side by side."""

    data: int
    """Settings of the data."""
    streams: int
    """Streams of batches."""
    teacher_passes: int
    """Streams on which the teacher runs in every step: none where its outputs are stored before the first."""


@dataclass(frozen=True)
class NetworkSize:
    """A network that an arm may train."""

    choice: Scalar | None
    """The value of the front's parameter; None without a front."""
    network: str
    params_m: float
    """Millions of parameters."""
    gflops: float
    breaks: str | None
    """The limit that it breaks, if any."""


@dataclass(frozen=True)
class ArmFacts:
    """An arm with the networks that it may train, by cost."""

    arm: Arm
    sizes: Sequence[NetworkSize]

    def as_json(self) -> dict[str, Any]:
        """The form that `validate --json` prints."""
        arm = self.arm
        return {
            "name": arm.name,
            "study": arm.study_name,
            "trials": arm.trials,
            "in_flight": arm.in_flight,
            "sampler": arm.sampler.model_dump(),
            "pruner": arm.pruner.model_dump(),
            "enqueued": [dict(entry) for entry in arm.enqueue],
            "front": arm.front[0] if len(arm.front) == 1 else list(arm.front) or None,
            "space": [{"name": p.name, **p.facts(), "when": when_text(p), "range": shown(p)} for p in arm.space],
            "dropped": list(arm.dropped),
            "sizes": [asdict(size) for size in self.sizes],
        }


@dataclass(frozen=True)
class StoredStudy:
    """What a database has under the study's name."""

    storage: str
    """The database as it may be shown."""
    study: str
    """`absent`, `the same`, `another`, `somebody else's`, or why that is unknown."""


@dataclass(frozen=True)
class Preflight:
    """What is known of a study before its first trial."""

    spec: StudySpec
    identity: str
    data: DataFacts | None
    """None where no data were opened."""
    teacher: "Facts | None"
    """None where the study has none, or it was not opened."""
    gains: DetectableGains | None
    """What a confirmation may show; None without data."""
    streams: Streams
    arms: Sequence[ArmFacts]
    """The main one first."""
    work: TrainingWork | None
    """Operations that training takes; None without data, or where the teacher cannot be trained by its recipe."""
    time: TimeForecast | None
    """None where no step was timed."""
    notes: Sequence[str]
    """What is allowed and still may not be meant."""
    problems: Sequence[str]
    """What stands in the way of a search, one line each."""
    disk: DiskForecast
    stored: StoredStudy | None = None
    """None where no database was looked at."""

    @property
    def contents(self) -> bool:
        """Whether the identity covers the contents of data and teacher."""
        return self.data is not None and (self.teacher is not None or self.spec.run.teacher is None)

    @property
    def min_dice(self) -> float:
        """The teacher's floor."""
        return 0.0 if self.spec.run.teacher is None else self.spec.run.teacher.min_dice

    def as_json(self) -> dict[str, Any]:
        """The document of `validate --json`."""
        spec = self.spec
        return {
            "study": spec.name,
            "file": str(spec.source),
            "identity": self.identity,
            "contents": self.contents,
            "overrides": list(spec.overrides),
            "dropped": list(spec.dropped),
            "objective": {"direction": spec.objective.direction, "metric": spec.objective.metric},
            "limits": spec.limits.model_dump(exclude_none=True),
            "data": None if self.data is None else asdict(self.data),
            "teacher": None if self.teacher is None else self._teacher(self.teacher),
            "confirm": None if self.gains is None else asdict(self.gains),
            "streams": asdict(self.streams),
            "arms": [arm.as_json() for arm in self.arms],
            "work": None if self.work is None else self.work.as_json(),
            "time": None if self.time is None else self.time.as_json(),
            "budget": spec.budget.model_dump(exclude_none=True),
            "notes": list(self.notes),
            "problems": list(self.problems),
            "cost": asdict(self.disk),
            "stored": None if self.stored is None else asdict(self.stored),
        }

    def _teacher(self, facts: "Facts") -> dict[str, Any]:
        return {
            "file": facts.name,
            "sha256": facts.sha256,
            "dice": facts.dice,
            "measured": facts.measured,
            "train_dice": facts.train_dice,
            "calibration": facts.calibration,
            "calibration_positive": facts.calibration_positive,
            "entropy": facts.entropy,
            "notes": list(facts.notes),
            "min_dice": self.min_dice,
            "seen": facts.overlap_text(),
        }


def when_text(parameter: Parameter) -> str | None:
    """On which other parameters a parameter hangs, such as `method = kl`; None where it always counts."""
    return condition(parameter).removeprefix("it needs ") if parameter.when else None


def preflight(spec: StudySpec, cache: Path | None, *, timing: bool = False) -> Preflight:
    """What is known of a study. cache: folder for decoded pictures; None opens no data and no teacher. timing: whether
    some seconds are spent on timed steps.

    What is wrong with data or teacher stands under `problems`. Raises UserError for a run that cannot be built and for
    choices that break the limits.
    """
    built = costs(spec)
    refuse_hopeless(spec, built)
    problems: list[str] = []
    data, data_facts = _data(spec, cache, problems)
    # A teacher that is still to be trained is timed by its size: the forecast is wanted before.
    time = None
    if timing and data is not None and not problems:
        time = time_forecast(spec, built, data, trainings=most_trainings(spec))
    teacher = None if cache is None or spec.run.teacher is None else _teacher(spec, data, problems)
    data_hash = None if data is None else data.content_hash
    teacher_hash = None if teacher is None else teacher.sha256
    arms = [ArmFacts(arm, _sizes(spec, arm, [cost for cost in built if cost.arm == arm.name])) for arm in spec.arms]
    return Preflight(
        spec=spec,
        identity=identity(spec, data_hash=data_hash, teacher_hash=teacher_hash),
        data=data_facts,
        teacher=teacher,
        gains=None if data is None else detectable_gains(spec, data),
        streams=_streams(spec),
        arms=arms,
        work=_work(spec, built, data),
        time=time,
        notes=[*_notes(spec), *_stored_logits(spec, data)],
        problems=problems,
        disk=disk_forecast(
            spec, [max(cost.facts.stored_params for cost in built if cost.arm == each.arm.name) / 1e6 for each in arms]
        ),
    )


def _data(spec: StudySpec, cache: Path | None, problems: list[str]) -> tuple[DataSet | None, DataFacts | None]:
    if cache is None:
        return None, None
    try:
        data = open_data(spec.run.data, cache=cache, progress=Counting(opening_work(spec.run.data)))
    except DataError as error:
        text = one_line(error)
        problems.append(f"{spec.source}: {'run.' if text.startswith('data.') else 'run.data: '}{text}")
        return None, None
    hashes = {part: data.image_hashes(part) for part in PARTS}
    everything = [image for part in PARTS for image in hashes[part]]
    facts = DataFacts(
        name=spec.run.data.name,
        content=data.content_hash,
        images=len(everything),
        parts={part: len(hashes[part]) for part in PARTS},
        twice=len(everything) - len(set(everything)),
        near_duplicates=data.near_duplicates,
        volumes=dims_of(spec.run.data) == 3,
        **_classes(data),
        cases=_cases(data),
    )
    from search.confirm.data_checks import unseen_sources  # with Optuna, which a look at a study file does not need

    try:
        unseen_sources(spec.run.data, spec.confirm, cache)
    except UserError as error:
        problems.append(f"{spec.source}: {error}")
    if hashes["train"]:
        try:
            refuse_large_batches(spec, examples_an_epoch(data))
        except UserError as error:
            problems.append(one_line(error))
    if not hashes["train"] or not hashes["validation"]:
        problems.append(f"{spec.source}: run.data: no images in {'train' if not hashes['train'] else 'validation'}")
    return data, facts


def _work(spec: StudySpec, built: Sequence[Cost], data: DataSet | None) -> TrainingWork | None:
    if data is None or not data.samples("train"):
        return None
    try:
        return training_work(spec, built, examples_an_epoch(data), trainings=most_trainings(spec))
    except (ValueError, UserError):
        return None  # said among the problems


def _cases(data: DataSet) -> int | None:
    """How many cases all parts have; None where an image is one."""
    if scored_as(data.config) == "image":
        return None
    counts = [counted_groups(data.config, part) for part in PARTS]
    return sum(each[0] for each in counts if each is not None)


def _classes(data: DataSet) -> dict[str, Any]:
    """Shares of classes (or regions) in the training part, and those that a part lacks; nothing with one object."""
    if len(foreground_names(data)) < 2:
        return {}
    counts = {part: class_pixels(data, part).tolist() for part in PARTS[:2] if data.samples(part)}
    names, train = data.class_names, counts.get("train", [])
    total = int(label_pixels(data, "train").sum()) if train else 0
    absent = {part: [names[at] for at, count in enumerate(pixels) if not count] for part, pixels in counts.items()}
    return {
        "classes": {name: count / max(total, 1) for name, count in zip(names, train, strict=bool(train))},
        "regions": data.regions is not None,
        "absent": {part: missing for part, missing in absent.items() if missing},
    }


def _teacher(spec: StudySpec, data: DataSet | None, problems: list[str]) -> "Facts | None":
    """The teacher on the data; None where it cannot be used, or where the data could not be opened."""
    from trainer.errors import CheckpointError
    from trainer.teacher.assessment import floor
    from trainer.teacher.open import TEACH, refuse_absent

    command = f"python -m trainer teach {shlex.quote(str(spec.source))}"
    try:
        if data is None:
            refuse_absent(spec.run.teacher)
            return None
        return floor(spec.run, data, whole=True)
    except CheckpointError as error:
        named = one_line(error).replace(TEACH, command)
        problems.append(f"{spec.source}: {'run.' if named.startswith('teacher.') else ''}{named}")
        problems += _recipe_problems(spec, data)
        return None


def _recipe_problems(spec: StudySpec, data: DataSet | None) -> Iterator[str]:
    """Why `trainer teach` would refuse the recipe of a teacher that has yet to be trained."""
    from trainer.commands.teach import refuse_untrainable
    from trainer.teacher.open import located, ours

    config = spec.run.teacher
    if config is None or not ours(config) or located(config).exists():
        return
    try:
        run = RunFile(spec.source, spec.run, teach=spec.teach).teacher_run()
        refuse_untrainable(spec.source, run, images=None if data is None else examples_an_epoch(data))
    except UserError as error:
        yield one_line(error)


def _streams(spec: StudySpec) -> Streams:
    runs = [run for _, run in probe_runs(spec)]
    return Streams(
        data=len({run.data.model_dump_json() for run in runs}),
        streams=len({stream_key(run) for run in runs}),
        teacher_passes=len({stream_key(run) for run in runs if run.methods() and run.data.views is None}),
    )


def _sizes(spec: StudySpec, arm: Arm, built: list[Cost]) -> list[NetworkSize]:
    """The networks of an arm by cost; along the front, by its choices."""
    sizes: dict[tuple[Scalar | None, float, float], NetworkSize] = {}
    for cost in built:
        flat = flatten(cost.run.model_dump(mode="json"))
        choice = choice_shown([flat.get(path) for path in spec.front.paths]) if spec.front and arm.front else None
        sizes.setdefault(
            (choice, cost.params_m, cost.gflops),
            NetworkSize(choice, cost.run.student.name, cost.params_m, cost.gflops, verdict(spec.limits, cost)),
        )
    return sorted(sizes.values(), key=lambda size: (size.params_m, size.gflops))


def _notes(spec: StudySpec) -> Iterator[str]:
    """What is allowed and still may not be meant."""
    for arm in spec.arms:
        yield from _notes_of(arm)
        yield from spread_notes(spec.front, arm)
        yield from pruner_notes(arm, maximize=spec.objective.direction == "maximize")
    ways = len(compared_methods(spec)) + 1
    if ways > 1 or len(spec.arms) > 1:
        for arm in spec.arms:
            yield from draw_notes(arm, ways if arm == spec.main else 1)
    points = len(spec.main.points)
    if compared_methods(spec) and spec.confirm.top < points:
        along = title(spec.main.front)
        yield f"confirm.top = {spec.confirm.top}: of {points} choices of {along} the worst are not confirmed"
    two = [run for _, run in probe_runs(spec) if len(classes_of(run.data)) == 2 and not overlaps(run.data)]
    live = {name for run in two for name in run.methods()}
    yield from (f"losses.{name}: {idle}" for name, idle in IDLE_WITH_TWO_CLASSES.items() if name in live)


def _stored_logits(spec: StudySpec, data: DataSet | None) -> Iterator[str]:
    """What the teacher's logits take on disk where the images have fixed views."""
    if data is None or spec.run.data.views is None:
        return
    from trainer.engine.resources import teacher_key
    from trainer.teacher.stored_logits import stored_bytes
    from trainer.teacher.volume_maps import kept_map_bytes

    listening = [run for _, run in probe_runs(spec) if run.methods()]
    kinds = {(stream_key(run), teacher_key(run)): run for run in listening}
    size = sum(stored_bytes(run, data) for run in kinds.values())
    size += sum({run.teacher: kept_map_bytes(run, data) for run in listening}.values())
    yield f"data.views: the teacher's logits take {size / 1e9:.3g} GB of each machine's cache folder, computed once"


def _notes_of(arm: Arm) -> Iterator[str]:
    methods = [str(value) for p in arm.space if p.path == "method" for value in p.probes()]
    for p in arm.space:
        steps = p.path.split(".")
        unused = [m for m in methods if steps[1:] and steps[1] not in m.split("+")]
        if steps[0] == "losses" and steps[1] in NEEDS_TEACHER and unused and "method" not in dict(p.when):
            yield f"{arm.name}: {p.name} is drawn without effect where method is {' or '.join(unused)}; add when"
    yield from sampler_notes(arm)
    if arm.trials < len(arm.points):
        yield f"{arm.name}: {arm.trials} trials for {len(arm.points)} choices of {title(arm.front)}: some get none"
