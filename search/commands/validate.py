"""`python -m search validate`: everything that can be known of a study before its first trial. Nothing is stored.

Where a database is named, or the default one is there, its study of that name is compared.
"""

import argparse
import json
import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from loguru import logger
from pydantic import BaseModel

from search.answer.power import describe_gains
from search.commands.preflight import ArmFacts, DataFacts, NetworkSize, Preflight, StoredStudy, preflight, when_text
from search.commands.series_forecast import MemberCheck, SeriesCheck, series_lines
from search.planning.disk import DiskForecast, format_bytes
from search.planning.time_forecast import describe_time
from search.planning.training_work import describe_work
from search.series.members import SeriesSpec, load_series, series_named
from search.spec.config import Budget
from search.spec.identity import difference
from search.spec.load import StudySpec, find, load, record
from search.spec.space import shown
from search.storage.url import add_storage
from trainer.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("study", help="name of a file in studies/, or a path; of a series all members are checked")
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
    series = series_named(args.study)
    if series is not None:
        return _validate_series(args, load_series(series, args.set))
    file = find(args.study)
    spec = load(file, args.set, name=args.name)
    if not args.no_data:
        logger.info("{}: checks {}, its data and its teacher", spec.name, file.absolute())
    facts = _examined(args, spec)
    if args.json:
        print(json.dumps(facts.as_json(), indent=2))
    else:
        ready = facts.data is not None and not facts.problems
        print("\n".join([*preflight_lines(facts), *([_line("next", _work(args))] if ready else [])]))
    return 2 if facts.problems else 0


def _examined(args: argparse.Namespace, spec: StudySpec) -> Preflight:
    """What is known of a study, with what a database has under its name. Raises UserError."""
    spec = _as_begun(spec, args.storage)
    facts = preflight(spec, None if args.no_data else args.cache, timing=not args.no_timing)
    stored, problem = _stored(args.storage, facts)
    problems = [] if problem is None else [problem]
    return replace(facts, stored=stored, problems=[*facts.problems, *problems, *_warm_start(args.storage, spec)])


def _validate_series(args: argparse.Namespace, series: SeriesSpec) -> int:
    """The same of every member, and their sum."""
    if args.name is not None:
        raise UserError(f"--name {args.name}: the members of a series have their own names; leave --name out")
    members = []
    for spec in series.members:
        if not args.no_data:
            logger.info("{}: checks {}, its data and its teacher", spec.name, spec.file.absolute())
        try:
            facts = _examined(args, spec)
        except UserError as error:
            members.append(MemberCheck(spec, None, [str(error)]))
        else:
            members.append(MemberCheck(spec, facts, facts.problems))
    check = SeriesCheck(series, members)
    if args.json:
        print(json.dumps(check.as_json(), indent=2))
    else:
        ready = not args.no_data and not check.problems
        print("\n".join([*series_lines(check), *([_line("next", _work(args))] if ready else [])]))
    return 2 if check.problems else 0


def _work(args: argparse.Namespace) -> str:
    """The command that begins, or goes on with, the search that these arguments name."""
    flags = [*(f"--set={each}" for each in args.set), *([] if args.name is None else [f"--name={args.name}"])]
    same = "" if args.storage is None else "  (with the same --storage)"
    return shlex.join(["python", "-m", "search", "work", args.study, *flags]) + same


def _as_begun(spec: StudySpec, storage: str | None) -> StudySpec:
    from search.study.begun import as_begun  # with Optuna, as below

    return as_begun(spec, storage)


def _stored(given: str | None, facts: Preflight) -> tuple[StoredStudy | None, str | None]:
    """What a worker would find under the study's name, and the problem where another one stands in the way."""
    from search.storage.lookup import stored  # with Optuna, which a look at a study file alone does not need

    spec = facts.spec
    there = stored(given, spec.name, [arm.study_name for arm in spec.arms])
    if there is None:
        return None, None
    if there.refused is not None:
        return StoredStudy(there.label, "somebody else's"), there.refused
    if there.record is None:
        return StoredStudy(there.label, "absent" if there.why is None else f"unknown: {there.why}"), None
    contents = {}
    if facts.contents:
        contents = {
            "data_hash": None if facts.data is None else facts.data.content,
            "teacher_hash": None if facts.teacher is None else facts.teacher.sha256,
        }
    changed = difference(there.record, record(spec, **contents))
    changed = [line for line in changed if contents or not line.startswith("content.")]
    if not changed:
        return StoredStudy(there.label, "the same"), None
    more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
    return StoredStudy(there.label, "another"), (
        f"study {spec.name!r} is in {there.label} with another identity: {'; '.join(changed[:5])}{more}; "
        "use another name (--name), or another --storage"
    )


def _warm_start(storage: str | None, spec: StudySpec) -> list[str]:
    """Why the older study cannot inform this one; what it gives is logged."""
    from search.proposing.warm_start import warm_trials
    from search.storage.database import open_storage  # with Optuna, as above
    from search.storage.url import storage_url

    given = spec.warm_start
    if given is None:
        return []
    opened = None
    try:
        if given.storage is None:
            opened = open_storage(storage_url(storage), create=False)
        warm_trials(opened, spec, given)
    except UserError as error:
        place = f"{spec.source}: warm_start"
        return [str(error) if str(error).startswith(place) else f"{place}.from = {given.source!r}: {error}"]
    finally:
        if opened is not None:
            opened.engine.dispose()
    return []


def preflight_lines(facts: Preflight) -> list[str]:
    """The same as lines for people."""
    spec, (kd, *controls) = facts.spec, facts.arms
    state = "" if facts.contents else " of the file alone: data and teacher were not read"
    printed = [_line("study", f"{spec.name}  spec {facts.identity[:8]}{state}; folders and budget may change later")]
    if spec.overrides:
        printed.append(_line("", f"set: {', '.join(spec.overrides)}"))
    printed += [_line("", f"dropped: {name}") for name in spec.dropped]
    printed += [*_data_lines(facts), *_space_lines(facts, kd)]
    arm = kd.arm
    printed += [_line("sampler", _settings(arm.sampler)), _line("pruner", _settings(arm.pruner))]
    if spec.warm_start is not None:
        printed.append(_line("warm", f"from {spec.warm_start.source}, a trial of it counts {spec.warm_start.weight:g}"))
    printed.append(
        _line(
            "budget",
            f"{_budget(spec.budget)}; in flight at most {min(arm.in_flight, arm.trials)} of {arm.trials}",
        )
    )
    if arm.enqueue:
        printed.append(_line("enqueued", f"{len(arm.enqueue)} first"))
    for i, control in enumerate(controls):
        printed += _control_lines(control, kd, "arms" if i == 0 else "")
    printed.append(_line("disk", _disk(facts.disk)))
    if facts.work is not None:
        printed += _lines("work", describe_work(facts.work))
    if facts.time is not None:
        printed += _lines("time", describe_time(facts.time))
    if facts.gains is not None:
        printed += _lines("confirm", describe_gains(facts.gains))
    if facts.stored is not None:
        printed.append(_line("stored", f"in {facts.stored.storage}: {facts.stored.study}"))
    printed += _lines("note", facts.notes)
    if facts.problems:
        return [*printed, *(_line("error", problem) for problem in facts.problems)]
    return [*printed, _line("ok", "nothing was written" + (" but decoded pictures" if facts.data else ""))]


def _line(word: str, text: str) -> str:
    return f"{word:<9} {text}".rstrip()


def _lines(word: str, texts: Iterable[str]) -> list[str]:
    """Lines of one subject, whose word stands before the first."""
    return [_line("" if i else word, text) for i, text in enumerate(texts)]


def _data_lines(facts: Preflight) -> list[str]:
    data, teacher = facts.data, facts.teacher
    printed = []
    if data is not None:
        parts = " / ".join(f"{part} {count}" for part, count in data.parts.items())
        unit = "image" if data.cases is None or data.cases < data.images else "case"
        of = f" of {_count(data.cases, 'case')}" if data.cases is not None and unit == "image" else ""
        twice = f"{_count(data.twice, unit)} twice" if data.twice else f"no {unit} twice"
        near = data.near_duplicates
        alike = (
            f"{_count(near, 'near-identical pair')} accepted"
            if near
            else f"no near-identical {'volumes' if data.volumes else 'pictures'}"
        )
        checked = f"no group and {alike} in two parts, {twice}; content {data.content[:8]}"
        printed.append(_line("data", f"{data.name}  {_count(data.images, unit)}{of}  {parts}; {checked}"))
        printed += _class_lines(data)
    if teacher is not None:
        sure = {
            "train": teacher.train_dice,
            "foreground ECE": teacher.calibration_positive,
            "chosen-class ECE": teacher.calibration,
            "entropy": teacher.entropy,
        }
        more = "".join(f"  {name} {value:.3f}" for name, value in sure.items() if value is not None)
        how = "measured" if teacher.measured else "recorded"
        dice = f"validation dice {teacher.dice:.3f} {how} (floor {facts.min_dice:g})"
        printed.append(_line("teacher", f"{Path(teacher.name).stem}  {dice}{more}  {teacher.overlap_text()}"))
        printed += [_line("", note) for note in teacher.notes]
    return printed


def _class_lines(data: DataFacts) -> list[str]:
    """The classes with their shares of the training pixels or voxels, and those that a part lacks."""
    if not data.classes:
        return []
    shares = ", ".join(f"{name} {_percent(share)}" for name, share in data.classes.items())
    gone = [f"no {', no '.join(names)} in {part}" for part, names in data.absent.items()]
    kind = "regions" if data.regions else "classes"
    places = "voxels" if data.volumes else "pixels"
    return [_line("", "; ".join([f"{kind}, of the training {places}: {shares}", *gone]))]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share == 0 or share >= 0.001 else f"{share:.1g}"


def _space_lines(facts: Preflight, kd: ArmFacts) -> list[str]:
    parameters, streams = kd.arm.space, facts.streams
    conditional = sum(bool(parameter.when) for parameter in parameters)
    passes = f"{_count(streams.streams, 'stream')}, {_count(streams.teacher_passes, 'teacher pass')} a batch"
    space = f"{_count(len(parameters), 'parameter')} ({conditional} conditional)"
    text = f"{space}, {_count(streams.data, 'data setting')}: {passes}"
    width = max((len(parameter.name) for parameter in parameters), default=0)
    printed = [_line("space", text)]
    for p in parameters:
        when = f"  when {when_text(p)}" if p.when else ""
        printed.append(_line("", f"{p.name:<{width}}  {p.facts()['kind']:<7}  {shown(p)}{when}"))
    limits = facts.spec.limits.model_dump(exclude_none=True)
    bounds = ", ".join(_bound(name, value) for name, value in limits.items()) or "none"
    return [*printed, _line("limits", bounds), *_size_lines(kd)]


def _bound(name: str, value: Any) -> str:
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value['max']:g} by {value['table']}"


def _size_lines(facts: ArmFacts) -> list[str]:
    """A line a network; those that differ in a choice alone that costs nothing are one."""
    sized = any(path.startswith(("student.", "data.")) for path in facts.arm.front)
    sizes = facts.sizes if sized else [replace(size, choice=None) for size in facts.sizes]
    return list(dict.fromkeys(_size_line(facts, size) for size in sizes))


def _size_line(facts: ArmFacts, size: NetworkSize) -> str:
    front = facts.arm.front
    what = size.network if size.choice is None else f"{front[0]} {size.choice}" if len(front) == 1 else str(size.choice)
    verdict = "ok" if size.breaks is None else f"breaks the limit: {size.breaks}; pruned without training"
    return _line("", f"{what:<24}  {size.params_m:6.2f} M  {size.gflops:7.3g} GFLOP  {verdict}")


def _control_lines(control: ArmFacts, kd: ArmFacts, word: str) -> list[str]:
    arm = control.arm
    extra = "" if arm.sampler == kd.arm.sampler else f"; sampler {_settings(arm.sampler)}"
    extra += "" if arm.pruner == kd.arm.pruner else f"; pruner {_settings(arm.pruner)}"
    front = "" if arm.front else ", no front"
    counts = f"{arm.trials} trials, {_count(len(arm.space), 'parameter')}"
    printed = [_line(word, f"{arm.name}  {counts}{front}{extra}")]
    printed += [_line("", f"  without {name}") for name in _grouped(arm.dropped)]
    if control.sizes != kd.sizes:
        printed += [f"  {line}" for line in _size_lines(control)]
    return printed


def _grouped(dropped: Iterable[str]) -> list[str]:
    """Entries `name (reason)` with the names of one reason together."""
    groups: dict[str, list[str]] = {}
    for entry in dropped:
        name, _, reason = entry.partition(" (")
        groups.setdefault(reason.removesuffix(")"), []).append(name)
    return [f"{', '.join(names)}: {reason}" for reason, names in groups.items()]


def _settings(config: BaseModel) -> str:
    values = config.model_dump()
    rest = {key: value for key, value in values.items() if key != "name" and value != {}}
    parts = [f"{key} {value}" for key, value in rest.items() if not isinstance(value, dict)]
    parts += [f"{key} {value}" for inner in rest.values() if isinstance(inner, dict) for key, value in inner.items()]
    return f"{values['name']}{': ' if parts else ''}{', '.join(parts)}"


def _budget(budget: Budget) -> str:
    parts = [f"{budget.trials} trials an arm", f"at most {budget.max_failed} failed"]
    parts += [] if budget.gpu_hours is None else [f"{budget.gpu_hours:g} GPU-hours"]
    return ", ".join(parts + ([] if budget.wall is None else [f"{budget.wall} from the first trial"]))


def _disk(forecast: DiskForecast) -> str:
    kept, running = format_bytes(forecast.kept_bytes), format_bytes(forecast.running_bytes)
    return f"at most {kept} of weights that stay and {running} of checkpoints while trials run"


def _count(number: int, word: str) -> str:
    plural = f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{number} {word if number == 1 else plural}"
