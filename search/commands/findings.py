"""What can be known of a study before its first trial, as JSON values: costs, data, teacher, streams, arms."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from losses.config import NEEDS_TEACHER
from search.answer.forecast import forecast
from search.planning.limits import Cost, costs, refuse_hopeless, verdict
from search.spec.arms import Arm
from search.spec.config import MedianConfig
from search.spec.load import StudySpec, identity, probe_runs
from search.spec.space import Choices, condition, shown
from trainer.cli.progress import Counting
from trainer.data import DataError, DataSet, open_data, stream_key
from trainer.data.dataset import Part
from trainer.errors import one_line

PARTS: tuple[Part, ...] = ("train", "validation", "test")
Found = dict[str, Any]


def examine(spec: StudySpec, cache: Path | None) -> Found:
    """What is known of a study, as JSON values. cache: folder for decoded pictures; None opens no data and no teacher.

    What is wrong with data or teacher stands under "problems". Raises UserError for a run that cannot be built and for
    choices that break the limits.
    """
    built = costs(spec)
    refuse_hopeless(spec, built)
    problems: list[str] = []
    data, data_found = _data(spec, cache, problems)
    teacher = None if cache is None or spec.run.teacher is None else _teacher(spec, data, problems)
    data_hash = None if data is None else data.content_hash
    teacher_hash = None if teacher is None else teacher["sha256"]
    return {
        "study": spec.name,
        "file": str(spec.source),
        "identity": identity(spec, data_hash=data_hash, teacher_hash=teacher_hash),
        "contents": data is not None and (teacher is not None or spec.run.teacher is None),
        "overrides": list(spec.overrides),
        "dropped": list(spec.dropped),
        "objective": {"direction": spec.objective.direction, "metric": spec.objective.metric},
        "limits": spec.limits.model_dump(exclude_none=True),
        "data": data_found,
        "teacher": teacher,
        "confirm": None if data is None else forecast(spec, data),
        "streams": _streams(spec),
        "arms": [_arm(spec, arm, [cost for cost in built if cost.arm == arm.name]) for arm in spec.arms],
        "budget": spec.budget.model_dump(exclude_none=True),
        "notes": [*_notes(spec), *_stored_logits(spec, data)],
        "problems": problems,
    }


def _data(spec: StudySpec, cache: Path | None, problems: list[str]) -> tuple[DataSet | None, Found | None]:
    if cache is None:
        return None, None
    try:
        data = open_data(spec.run.data, cache=cache, progress=Counting("decoding pictures"))
    except DataError as error:
        text = one_line(error)
        problems.append(f"{spec.source}: {'run.' if text.startswith('data.') else 'run.data: '}{text}")
        return None, None
    hashes = {part: data.image_hashes(part) for part in PARTS}
    everything = [image for part in PARTS for image in hashes[part]]
    found: Found = {"name": spec.run.data.name, "content": data.content_hash, "images": len(everything)}
    found["parts"] = {part: len(hashes[part]) for part in PARTS}
    found["twice"] = len(everything) - len(set(everything))
    found["near_duplicates"] = data.near_duplicates
    if not hashes["train"] or not hashes["validation"]:
        problems.append(f"{spec.source}: run.data: no images in {'train' if not hashes['train'] else 'validation'}")
    return data, found


def _teacher(spec: StudySpec, data: DataSet | None, problems: list[str]) -> Found | None:
    """The teacher on the data; None where it cannot be used, or where the data could not be opened."""
    from trainer.errors import CheckpointError
    from trainer.teacher.assessment import floor
    from trainer.teacher.open import TEACH, refuse_absent

    command = f"python -m trainer teach {shlex.quote(str(spec.source))}"
    try:
        if data is None:
            refuse_absent(spec.run.teacher)
            return None
        facts = floor(spec.run, data, whole=True)
    except CheckpointError as error:
        named = one_line(error).replace(TEACH, command)
        problems.append(f"{spec.source}: {'run.' if named.startswith('teacher.') else ''}{named}")
        return None
    return {
        "file": facts.name,
        "sha256": facts.sha256,
        "dice": facts.dice,
        "measured": facts.measured,
        "train_dice": facts.train_dice,
        "calibration": facts.calibration,
        "entropy": facts.entropy,
        "notes": list(facts.notes),
        "min_dice": 0.0 if spec.run.teacher is None else spec.run.teacher.min_dice,
        "seen": facts.seen_words(),
    }


def _streams(spec: StudySpec) -> Found:
    """How many streams of batches the arms need side by side, and on how many of them the teacher runs."""
    runs = [run for _, run in probe_runs(spec)]
    return {
        "data": len({run.data.model_dump_json() for run in runs}),
        "streams": len({stream_key(run) for run in runs}),
        "teacher_passes": len({stream_key(run) for run in runs if run.methods()}),
    }


def _arm(spec: StudySpec, arm: Arm, built: list[Cost]) -> Found:
    return {
        "name": arm.name,
        "study": arm.study_name,
        "trials": arm.trials,
        "in_flight": arm.in_flight,
        "sampler": arm.sampler.model_dump(),
        "pruner": arm.pruner.model_dump(),
        "enqueued": [dict(entry) for entry in arm.enqueue],
        "front": arm.front,
        "space": [
            {
                "name": p.name,
                **p.facts(),
                "when": condition(p).removeprefix("it needs ") if p.when else None,
                "range": shown(p),
            }
            for p in arm.space
        ],
        "dropped": list(arm.dropped),
        "sizes": _sizes(spec, arm, built),
    }


def _sizes(spec: StudySpec, arm: Arm, built: list[Cost]) -> list[Found]:
    """The networks of an arm by cost; along the front, by its choices."""
    sizes: dict[tuple[Any, ...], Found] = {}
    for cost in built:
        choice = None if arm.front is None else cost.params[arm.front]
        sizes.setdefault(
            (choice, cost.params_m, cost.gflops),
            {
                "choice": choice,
                "network": cost.run.student.name,
                "params_m": cost.params_m,
                "gflops": cost.gflops,
                "breaks": verdict(spec.limits, cost),
            },
        )
    return sorted(sizes.values(), key=lambda size: (size["params_m"], size["gflops"]))


def _notes(spec: StudySpec) -> Iterator[str]:
    """What is allowed and still may not be meant."""
    for arm in spec.arms:
        yield from _notes_of(arm)
    classes_are_two = spec.run.data.name in ("blobs", "polyp")
    if classes_are_two and any("dist" in run.methods() for _, run in probe_runs(spec)):
        yield "losses.dist: with two classes only the relation within a class teaches"


def _stored_logits(spec: StudySpec, data: DataSet | None) -> Iterator[str]:
    """What the teacher's logits take on disk where the images have fixed views."""
    if data is None or spec.run.data.views is None:
        return
    from trainer.engine.resources import lesson
    from trainer.teacher.stored_logits import stored_bytes

    listening = [run for _, run in probe_runs(spec) if run.methods()]
    kinds = {(stream_key(run), lesson(run)): run for run in listening}
    size = sum(stored_bytes(run, data) for run in kinds.values())
    yield f"data.views: the teacher's logits take {size / 1e9:.3g} GB of each machine's cache folder, computed once"


def _notes_of(arm: Arm) -> Iterator[str]:
    methods = [str(value) for p in arm.space if p.path == "method" for value in p.probes()]
    for p in arm.space:
        steps = p.path.split(".")
        unused = [m for m in methods if steps[1:] and steps[1] not in m.split("+")]
        if steps[0] == "losses" and steps[1] in NEEDS_TEACHER and unused and "method" not in dict(p.when):
            yield f"{arm.name}: {p.name} is drawn without effect where method is {' or '.join(unused)}; add when"
    if isinstance(arm.pruner, MedianConfig) and arm.pruner.warmup(arm.epochs) >= arm.epochs:
        yield f"{arm.name}: pruner.warmup_epochs = {arm.pruner.warmup_epochs}: nothing is pruned in {arm.epochs} epochs"
    front = next((p for p in arm.space if p.path == arm.front), None)
    if isinstance(front, Choices) and arm.trials < len(front.choices):
        yield f"{arm.name}: {arm.trials} trials for {len(front.choices)} choices of {front.path}: some get none"
