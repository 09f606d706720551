"""`python -m search validate`: everything that can be known of a study before its first trial. Nothing is stored.

Costs, data, teacher, streams and arms are found as JSON values, and printed. Where a database is named, or the default
one is there, its study of that name is compared.
"""

import argparse
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from losses.config import NEEDS_TEACHER
from search.answer.power import describe_gains, detectable_gains, most_trainings
from search.planning import disk
from search.planning.limits import refuse_hopeless, verdict
from search.planning.network_costs import Cost, costs, refuse_large_batches
from search.planning.time_forecast import describe_time, time_forecast
from search.spec.arms import Arm
from search.spec.config import MedianConfig
from search.spec.identity import difference
from search.spec.load import StudySpec, find, identity, load, probe_runs, record
from search.spec.space import Choices, condition, shown
from search.storage.url import add_storage
from trainer.cli.progress import Counting
from trainer.data import DataError, DataSet, open_data, stream_key
from trainer.data.dataset import Part
from trainer.errors import UserError, counted, one_line
from trainer.run_file import RunFile

PARTS: tuple[Part, ...] = ("train", "validation", "test")
Found = dict[str, Any]


def preflight(spec: StudySpec, cache: Path | None, *, timing: bool = False) -> Found:
    """What is known of a study, as JSON values. cache: folder for decoded pictures; None opens no data and no teacher.
    timing: whether some seconds are spent on timed steps.

    What is wrong with data or teacher stands under "problems". Raises UserError for a run that cannot be built and for
    choices that break the limits.
    """
    built = costs(spec)
    refuse_hopeless(spec, built)
    problems: list[str] = []
    data, data_facts = _data(spec, cache, problems)
    # A teacher that is still to be trained is timed by its size: the forecast is wanted before.
    time = _time(spec, built, data) if timing and data is not None and not problems else None
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
        "data": data_facts,
        "teacher": teacher,
        "confirm": None if data is None else detectable_gains(spec, data),
        "streams": _streams(spec),
        "arms": [_arm(spec, arm, [cost for cost in built if cost.arm == arm.name]) for arm in spec.arms],
        "time": time,
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
    facts: Found = {"name": spec.run.data.name, "content": data.content_hash, "images": len(everything)}
    facts["parts"] = {part: len(hashes[part]) for part in PARTS}
    facts["twice"] = len(everything) - len(set(everything))
    facts["near_duplicates"] = data.near_duplicates
    from search.confirm.data_checks import refuse_unknown  # with Optuna, which a look at a study file does not need

    try:
        refuse_unknown(spec.run.data, spec.confirm.unseen, cache)
    except UserError as error:
        problems.append(f"{spec.source}: {error}")
    if hashes["train"]:
        try:
            refuse_large_batches(spec, len(hashes["train"]))
        except UserError as error:
            problems.append(one_line(error))
    if not hashes["train"] or not hashes["validation"]:
        problems.append(f"{spec.source}: run.data: no images in {'train' if not hashes['train'] else 'validation'}")
    return data, facts


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
        problems += _recipe_problems(spec, data)
        return None
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
        "min_dice": 0.0 if spec.run.teacher is None else spec.run.teacher.min_dice,
        "seen": facts.overlap_text(),
    }


def _time(spec: StudySpec, built: list[Cost], data: DataSet) -> Found:
    return time_forecast(spec, built, data, trainings=most_trainings(spec)).as_json()


def _recipe_problems(spec: StudySpec, data: DataSet | None) -> Iterator[str]:
    """Why `trainer teach` would refuse the recipe of a teacher that has yet to be trained."""
    from trainer.commands.teach import refuse_untrainable
    from trainer.teacher.open import located, ours

    config = spec.run.teacher
    if config is None or not ours(config) or located(config).exists():
        return
    try:
        run = RunFile(spec.source, spec.run, teach=spec.teach).teacher_run()
        refuse_untrainable(spec.source, run, images=None if data is None else len(data.samples("train")))
    except UserError as error:
        yield one_line(error)


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
    from trainer.engine.resources import teacher_key
    from trainer.teacher.stored_logits import stored_bytes

    listening = [run for _, run in probe_runs(spec) if run.methods()]
    kinds = {(stream_key(run), teacher_key(run)): run for run in listening}
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
        epochs = counted(arm.epochs, "epoch")
        yield f"{arm.name}: pruner.warmup_epochs = {arm.pruner.warmup_epochs}: nothing is pruned in {epochs}"
    front = next((p for p in arm.space if p.path == arm.front), None)
    if isinstance(front, Choices) and arm.trials < len(front.choices):
        yield f"{arm.name}: {arm.trials} trials for {len(front.choices)} choices of {front.path}: some get none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("study", help="name of a file in studies/, or a path")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="replace a value of the file")
    add_storage(parser)
    parser.add_argument("--name", help="another study name; needed where --set changes what the study is")
    parser.add_argument(
        "--cache", type=Path, default=Path("cache"), help="folder for decoded pictures (default: cache)"
    )
    parser.add_argument("--no-data", action="store_true", help="open no data and no teacher")
    parser.add_argument("--no-timing", action="store_true", help="time no steps: no forecast of time, 5 s sooner")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def main(args: argparse.Namespace) -> int:
    """Print what is known; 0 where the search may begin, 2 where something stands in its way."""
    spec = _as_begun(load(find(args.study), args.set, name=args.name), args.storage)
    facts = preflight(spec, None if args.no_data else args.cache, timing=not args.no_timing)
    facts["cost"] = disk.disk_forecast(spec, facts["arms"])
    facts["stored"] = _stored(args.storage, spec, facts)
    print(json.dumps(facts, indent=2) if args.json else "\n".join(preflight_lines(facts)))
    return 2 if facts["problems"] else 0


def _as_begun(spec: StudySpec, storage: str | None) -> StudySpec:
    from search.study.begun import as_begun  # with Optuna, as below

    return as_begun(spec, storage)


def _stored(given: str | None, spec: StudySpec, facts: Found) -> Found | None:
    """Whether a worker would find the study under its name; another one stands in the way, and is a problem."""
    from search.storage.lookup import stored  # with Optuna, which a look at a study file alone does not need

    there = stored(given, spec.name, [arm.study_name for arm in spec.arms])
    if there is None:
        return None
    place = {"storage": there.label, "study": "absent" if there.why is None else f"unknown: {there.why}"}
    if there.refused is not None:
        place["study"] = "somebody else's"
        facts["problems"].append(there.refused)
    elif there.record is not None:
        contents = {}
        if facts["contents"]:
            teacher = facts["teacher"]
            contents = {
                "data_hash": facts["data"]["content"],
                "teacher_hash": None if teacher is None else teacher["sha256"],
            }
        changed = difference(there.record, record(spec, **contents))
        changed = [line for line in changed if contents or not line.startswith("content.")]
        place["study"] = "another" if changed else "the same"
        if changed:
            more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
            facts["problems"].append(
                f"study {spec.name!r} is in {there.label} with another identity: {'; '.join(changed[:5])}{more}; "
                "use another name (--name), or another --storage"
            )
    return place


def preflight_lines(facts: Found) -> list[str]:
    """The same as lines for people."""
    kd, *controls = facts["arms"]
    state = "" if facts["contents"] else " of the file alone, without the contents of data and teacher"
    printed = [
        _line(
            "study", f"{facts['study']}  spec {facts['identity'][:8]}{state}   places and budget are outside the hash"
        )
    ]
    if facts["overrides"]:
        printed.append(_line("", f"set: {', '.join(facts['overrides'])}"))
    printed += [_line("", f"dropped: {name}") for name in facts["dropped"]]
    printed += [*_data_lines(facts), *_space_lines(facts, kd)]
    printed += [_line("sampler", _settings(kd["sampler"])), _line("pruner", _settings(kd["pruner"]))]
    printed.append(
        _line(
            "budget",
            f"{_budget(facts['budget'])}; in flight at most {min(kd['in_flight'], kd['trials'])} of {kd['trials']}",
        )
    )
    if kd["enqueued"]:
        printed.append(_line("enqueued", f"{len(kd['enqueued'])} first"))
    for i, arm in enumerate(controls):
        printed += _control_lines(arm, kd, "arms" if i == 0 else "")
    printed.append(_line("disk", _cost(facts["cost"])))
    if facts["time"] is not None:
        printed.append(_line("time", describe_time(facts["time"])))
    if facts["confirm"] is not None:
        printed.append(_line("confirm", describe_gains(facts["confirm"])))
    if facts["stored"] is not None:
        printed.append(_line("stored", f"in {facts['stored']['storage']}: {facts['stored']['study']}"))
    printed += [_line("note" if i == 0 else "", note) for i, note in enumerate(facts["notes"])]
    if facts["problems"]:
        return [*printed, *(_line("error", problem) for problem in facts["problems"])]
    return [*printed, _line("ok", "nothing was written" + (" but decoded pictures" if facts["data"] else ""))]


def _line(word: str, text: str) -> str:
    return f"{word:<9} {text}".rstrip()


def _data_lines(facts: Found) -> list[str]:
    data, teacher = facts["data"], facts["teacher"]
    printed = []
    if data is not None:
        parts = " / ".join(f"{part} {count}" for part, count in data["parts"].items())
        twice = f"{data['twice']} images twice" if data["twice"] else "no image twice"
        near = data["near_duplicates"]
        alike = f"{_count(near, 'near-identical pair')} accepted" if near else "no near-identical pictures"
        checked = f"no group and {alike} in two parts, {twice}; content {data['content'][:8]}"
        printed.append(_line("data", f"{data['name']}  {data['images']} images  {parts}; {checked}"))
    if teacher is not None:
        sure = {
            "train": teacher["train_dice"],
            "foreground ECE": teacher["calibration_positive"],
            "chosen-class ECE": teacher["calibration"],
            "entropy": teacher["entropy"],
        }
        more = "".join(f"  {name} {value:.3f}" for name, value in sure.items() if value is not None)
        how = "measured" if teacher["measured"] else "recorded"
        dice = f"validation dice {teacher['dice']:.3f} {how} (floor {teacher['min_dice']:g})"
        printed.append(_line("teacher", f"{Path(teacher['file']).stem}  {dice}{more}  {teacher['seen']}"))
        printed += [_line("", note) for note in teacher["notes"]]
    return printed


def _space_lines(facts: Found, kd: Found) -> list[str]:
    conditional = sum(parameter["when"] is not None for parameter in kd["space"])
    streams = facts["streams"]
    passes = f"{_count(streams['streams'], 'stream')}, {_count(streams['teacher_passes'], 'teacher pass')} a batch"
    space = f"{_count(len(kd['space']), 'parameter')} ({conditional} conditional)"
    text = f"{space}, {_count(streams['data'], 'data setting')}: {passes}"
    width = max((len(parameter["name"]) for parameter in kd["space"]), default=0)
    printed = [_line("space", text)]
    for p in kd["space"]:
        when = f"  when {p['when']}" if p["when"] else ""
        printed.append(_line("", f"{p['name']:<{width}}  {p['kind']:<7}  {p['range']}{when}"))
    bounds = ", ".join(_bound(name, value) for name, value in facts["limits"].items()) or "none"
    return [*printed, _line("limits", bounds), *(_size_line(kd, size) for size in kd["sizes"])]


def _bound(name: str, value: Any) -> str:
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value['max']:g} by {value['table']}"


def _size_line(arm: Found, size: Found) -> str:
    what = size["network"] if arm["front"] is None else f"{arm['front']} {size['choice']}"
    verdict = "ok" if size["breaks"] is None else f"breaks the limit: {size['breaks']}; pruned without training"
    return _line("", f"{what:<24}  {size['params_m']:6.2f} M  {size['gflops']:7.3g} GFLOP  {verdict}")


def _control_lines(arm: Found, kd: Found, word: str) -> list[str]:
    own = [key for key in ("sampler", "pruner") if arm[key] != kd[key]]
    extra = "".join(f"; {key} {_settings(arm[key])}" for key in own)
    front = "" if arm["front"] else ", no front"
    printed = [
        _line(word, f"{arm['name']}  {arm['trials']} trials, {_count(len(arm['space']), 'parameter')}{front}{extra}")
    ]
    printed += [_line("", f"  without {name}") for name in _grouped(arm["dropped"])]
    if arm["sizes"] != kd["sizes"]:
        printed += [f"  {_size_line(arm, size)}" for size in arm["sizes"]]
    return printed


def _grouped(dropped: Iterable[str]) -> list[str]:
    """Entries `name (reason)` with the names of one reason together."""
    groups: dict[str, list[str]] = {}
    for entry in dropped:
        name, _, reason = entry.partition(" (")
        groups.setdefault(reason.removesuffix(")"), []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in groups.items()]


def _settings(values: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in values.items() if key != "name" and value != {}}
    parts = [f"{key} {value}" for key, value in rest.items() if not isinstance(value, dict)]
    parts += [f"{key} {value}" for inner in rest.values() if isinstance(inner, dict) for key, value in inner.items()]
    return f"{values['name']}{': ' if parts else ''}{', '.join(parts)}"


def _budget(budget: Mapping[str, Any]) -> str:
    parts = [f"{budget['trials']} trials an arm", f"at most {budget['max_failed']} failed"]
    parts += [f"{budget['gpu_hours']:g} GPU-hours"] if "gpu_hours" in budget else []
    return ", ".join(parts + ([f"{budget['wall']} from the first trial"] if "wall" in budget else []))


def _cost(cost: Mapping[str, float]) -> str:
    kept, running = disk.format_bytes(cost["kept_bytes"]), disk.format_bytes(cost["running_bytes"])
    return f"at most {kept} of weights that stay and {running} of checkpoints while trials run"


def _count(number: int, word: str) -> str:
    plural = f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{number} {word if number == 1 else plural}"
