"""`python -m search export`: the best configurations of a search as strict JSON, each with the whole run behind it, or
the confirmed student as a package."""

import argparse
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search.answer import selection
from search.confirm.results import confirmed
from search.planning.network_costs import student_size
from search.series.members import each_member
from search.series.state import begun_members
from search.series.turns import in_turn
from search.spec.config import MAIN
from search.storage.database import Database, open_storage
from search.storage.errors import patient
from search.storage.glance import announce_look
from search.storage.leases import LeaseDetails
from search.storage.lookup import search_row
from search.storage.schema import FINISHED
from search.storage.url import add_storage, storage_url
from search.study import snapshot
from search.study.outcomes import completed_or_pruned, has_final_score, pruned, trained_to_end
from search.study.snapshot import SearchSnapshot
from trainer.atomic_files import check_output, write_output
from trainer.cli.numbers import whole
from trainer.cli.progress import counted_items
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.package.precision import add_precision

SCHEMA = 1
"""The version of the exported form, which `search/commands/export.schema.json` describes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("study", help="a study's name, or that of a series: a file a member")
    add_storage(parser)
    parser.add_argument("--name", help="the study's name in the database, where the workers had another")
    parser.add_argument("--top", type=whole(1), default=5, help="how many configurations, the best first (default 5)")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: standard output)")
    parser.add_argument("--json", action="store_true", help="with -o: print what was written as one JSON document")
    parser.add_argument(
        "--format",
        choices=["full", "seed"],
        default="full",
        help="seed: params, value and three counts, the keys of optuna_results.json (default %(default)s)",
    )
    parser.add_argument(
        "--confirmed", action="store_true", help="with --package: of the students that `search confirm` trained again"
    )
    parser.add_argument("--package", type=Path, metavar="DIR", help="pack the chosen student; DIR must not be there")
    parser.add_argument("--configuration", metavar="NAME", help="pack this one, whatever the rule of [confirm] says")
    add_precision(parser)
    parser.add_argument(
        "--cache", type=Path, default=Path("cache"), metavar="DIR", help="decoded pictures (default %(default)s)"
    )


def main(args: argparse.Namespace) -> int:
    """Write the export and say what the first configuration is."""
    if args.output is not None:
        check_output(args.output)
    with patient("export"):
        opened = open_storage(storage_url(args.storage), create=False)
        members = begun_members(opened, args.study, args.name)
        opened.engine.dispose()
    if not members:
        return _export(args)
    if args.output is None and args.package is None:
        raise UserError("--output: missing; a series is written into files, of -o best.json best.1.json and so on")
    return in_turn(map(_own_files, each_member(args, [row.name for row in members])), _export)


def _own_files(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments of a member of a series, whose files have its number: best.2.json, ship.2."""
    number = args.study.rpartition(".")[2]
    if args.output is not None:
        args.output = args.output.with_suffix(f".{number}{args.output.suffix}")
    if args.package is not None:
        args.package = args.package.with_name(f"{args.package.name}.{number}")
    return args


def _export(args: argparse.Namespace) -> int:
    """The export of one study."""
    name = args.name or args.study
    packed = args.configuration is not None or args.precision != "fp32" or args.margin is not None
    if args.package is not None or args.confirmed or packed:
        return _package(args, name)
    with patient("export"):
        opened = open_storage(storage_url(args.storage), create=False)
        if args.format == "seed":
            return _seed(args, opened, name)
        document = exported(opened, name, args.top)
    text = json.dumps(document, allow_nan=False, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    if args.output is None:
        print(text, end="")
        return 0
    write_output(args.output, text)
    best = document["best"][0]
    metric = document["study"]["metric"]
    if args.json:
        facts = {key: document[key] for key in ("schema", "confirmed", "counts", "arms_ended_together", "gpu_hours")}
        first = {key: best[key] for key in ("trial", "value", "epoch", "size")}
        summary = {"file": str(args.output), "study": name, "configurations": len(document["best"]), "first": first}
        print(json.dumps(summary | facts, allow_nan=False, sort_keys=True))
        return 0
    print(
        f"{args.output}  {len(document['best'])} configurations of {document['counts']['kd']['complete']} finished; "
        f"first: trial {best['trial']}, {metric} {best['value']:.4f}, {best['size']['params']:,} parameters"
    )
    print("unconfirmed: chosen and scored on the same validation images; the best of several is likely to be too high")
    print(f"next: python -m trainer fit {shlex.quote(str(args.output))} -o student.safetensors")
    return 0


def _seed(args: argparse.Namespace, opened: Database, name: str) -> int:
    results = seed_results(snapshot.read(opened, name))
    text = seed_text(results)
    if args.output is None:
        print(text, end="")
        return 0
    write_output(args.output, text)
    counts = (
        f"finished_trials {results.finished_trials} pruned_trials {results.pruned_trials} "
        f"completed_trials {results.completed_trials}"
    )
    print(f"{args.output}  value {results.value:.4f}, unconfirmed; {counts}")
    return 0


def _package(args: argparse.Namespace, name: str) -> int:
    from trainer.package.command import Wish, package, refuse_existing

    if args.package is None or not args.confirmed:
        raise UserError(
            "--confirmed and --package DIR go together; weights that were not confirmed are packed by: "
            "python -m trainer package WEIGHTS DIR"
        )
    refuse_existing(args.package)
    with patient("export"):
        opened = open_storage(storage_url(args.storage), create=False)
        result, weights = confirmed(opened, name), selection.weights_of(opened, name)
    chosen = selection.by_rule(result) if args.configuration is None else selection.by_hand(result, args.configuration)
    what = selection.with_evidence(result, chosen, weights)
    wish = Wish(
        weights=what.weights,
        folder=args.package,
        cache=args.cache,
        thresholds=what.thresholds,
        threshold_from="validation" if what.thresholds else "default",
        confirmation=what.confirmation,
        precision=None if args.precision == "fp32" else args.precision,
        margin=args.margin,
    )
    announce_look(f"packs a student of {name} into {args.package.absolute()}, from", storage_url(args.storage))
    for line in package(wish):
        print(line)
    print(f"{what.confirmation.configuration}, seed {what.confirmation.seed}, was packed:")
    for sentence in re.split(r"(?<=\.) ", what.confirmation.why):
        print(f"  {sentence}")
    print(f"next: python -m trainer predict {shlex.quote(str(args.package))} FOLDER -o masks")
    return 0


def _refuse_confirmation(name: str, record: dict[str, Any]) -> None:
    if record.get("confirm"):
        study = record["confirm"]["study"]
        raise UserError(
            f"study {name!r}: is the confirmation of {study}; its student is packed by: "
            f"python -m search export {study} --confirmed --package DIR"
        )


def exported(opened: Database, name: str, top: int) -> dict[str, Any]:
    """The document. Raises UserError where the study is unknown or no trial has finished."""
    row = search_row(opened, name)
    record = json.loads(row.spec)
    _refuse_confirmation(name, record)
    direction, metric = next(iter(record["objective"].items()))
    arms = opened.searches.arms_of(row.search_id)
    sign = -1 if direction == "maximize" else 1
    best = []
    controls: dict[str, Any] = {}
    counts = {}
    for arm in arms:
        rows = opened.leases.details([arm.study_id])
        ranked = [lease for lease in rows if has_final_score(lease)]
        ranked.sort(key=lambda lease: (sign * lease.known_score, lease.number))
        counts[arm.name] = _counts(rows, arm.trials)
        wanted = ranked[: top if arm.name == MAIN else 1]
        counted = counted_items(f"building networks of {arm.name}", enumerate(wanted, 1), len(wanted))
        entries = [_entry(rank, lease, arm.name) for rank, lease in counted]
        if arm.name == MAIN:
            best = entries
        elif entries:
            controls[arm.name] = entries[0]
    if not best:
        raise UserError(
            f"study {name!r}: no trial of the main search has finished yet; see: python -m search status {name}"
        )
    return {
        "schema": SCHEMA,
        "study": {"name": name, "identity": row.identity, "metric": metric, "direction": direction, "record": record},
        "confirmed": False,
        "best": best,
        "controls": controls,
        "counts": {arm: asdict(each) for arm, each in counts.items()},
        "arms_ended_together": all(each.finished >= each.of for each in counts.values()),
        "gpu_hours": sum(r.gpu_seconds for a in arms for r in opened.leases.details([a.study_id])) / 3600,
    }


@dataclass(frozen=True)
class ArmCounts:
    """How many trials of an arm ended in which way; its fields are those of the exported `counts`."""

    of: int
    """The arm's budget."""
    finished: int
    """Complete or pruned."""
    complete: int
    pruned: int
    failed: Mapping[str, int]
    """By class of failure."""


def _counts(leases: list[LeaseDetails], of: int) -> ArmCounts:
    failed = Counter(lease.failure for lease in leases if lease.state == FINISHED and lease.failure is not None)
    return ArmCounts(
        of=of,
        finished=sum(map(completed_or_pruned, leases)),
        complete=sum(map(trained_to_end, leases)),
        pruned=sum(map(pruned, leases)),
        failed=dict(failed),
    )


def _entry(rank: int, row: LeaseDetails, arm: str) -> dict[str, Any]:
    run = json.loads(row.known_run)
    environment = json.loads(row.environment or "{}")
    return {
        "rank": rank,
        "arm": arm,
        "trial": row.number,
        "value": row.best_score,
        "epoch": row.best_epoch,
        "scores": json.loads(row.scores or "{}"),
        "run": run,
        "replay": json.loads(row.replay or "null"),
        **{key: environment.get(key) for key in ("ranks", "threads", "device", "torch", "libraries", "numbers")},
        "size": _size(RunConfig.model_validate(run))
        if not environment.get("simulated")
        else {"params": 0, "gflops": 0.0},
        "seconds": json.loads(row.seconds or "{}"),
        "weights": row.weights,
    }


def _size(run: RunConfig) -> dict[str, float]:
    params, gflops = student_size(run)
    return {"params": params, "gflops": gflops}


@dataclass(frozen=True)
class SeedResults:
    """The best trial of the main search as other projects write it, in the order of their files."""

    params: Mapping[str, Any]
    """By their names in [space]; a front's choice is one of them."""
    value: float
    finished_trials: int
    """All trials that ended, failed ones included."""
    pruned_trials: int
    completed_trials: int


def seed_results(rows: SearchSnapshot) -> SeedResults:
    """The best trial, and how many there were. Raises UserError where none was trained to its end."""
    trials = rows.trials[MAIN]
    states = [trial.state.name for trial in trials]
    leases = {lease.number: lease for lease in rows.leases[MAIN]}
    ranked = [trial for trial in trials if trial.number in leases and has_final_score(leases[trial.number])]
    if not ranked:
        name = rows.search.name
        raise UserError(f"study {name!r}: no trial has finished yet; see: python -m search status {name}")
    sign = 1 if rows.maximize else -1
    best = max(ranked, key=lambda trial: (sign * float(trial.value or 0.0), -trial.number))
    ended = {state: states.count(state) for state in ("COMPLETE", "PRUNED", "FAIL")}
    return SeedResults(
        params=dict(best.params),
        value=float(best.value or 0.0),
        finished_trials=sum(ended.values()),
        pruned_trials=ended["PRUNED"],
        completed_trials=ended["COMPLETE"],
    )


def seed_text(results: SeedResults) -> str:
    """As those projects write it."""
    return json.dumps(asdict(results), indent=1, allow_nan=False) + "\n"
