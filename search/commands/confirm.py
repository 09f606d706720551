"""`python -m search confirm`: winners and controls of a search on fresh seeds, and the one opening of the test rows.

The first one plans `STUDY.confirm` from what the database has of the search; every further one, on any machine, joins.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from search import worker
from search.answer.build import answer, verdict_lines
from search.answer.comparisons import TEST, claim_line, metric_of, search_threshold
from search.answer.power import powerless
from search.answer.score_arrays import describe_rule, describe_thresholds
from search.commands import work
from search.confirm.data_checks import checked, unseen_sources
from search.confirm.plan import Plan, confirmations, identities, made, name_of, stored_plan, table_of
from search.confirm.results import Confirmed, confirmed
from search.series.members import each_member
from search.series.state import begun_members
from search.series.turns import in_turn
from search.spec.config import Dashboard
from search.spec.identity import difference
from search.storage.database import Database, open_storage
from search.storage.errors import patient
from search.storage.glance import announce_look
from search.storage.lookup import known_search
from search.storage.url import storage_url
from search.study.adapter import StudyAdapter
from search.study.class_scores import several
from search.study.create import Identity, open_search
from search.study.progress import progress_of, read_progress
from search.study.snapshot import read
from trainer.cli.durations import format_duration
from trainer.cli.numbers import whole
from trainer.config import RunConfig
from trainer.data.splits.part_sizes import scored_as
from trainer.distributed.supervisor import check_ranks, supervise
from trainer.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The study, what may be said about the plan, and the flags of a worker."""
    parser.add_argument("--plan", action="store_true", help="print what would be trained, and open nothing")
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="although the search has not ended, or although these test images can show nothing",
    )
    parser.add_argument("--seeds", type=_numbers, metavar="N,N,...", help="fresh seeds in place of [confirm] seeds")
    parser.add_argument(
        "--top", type=whole(1), metavar="N", help="winners that are confirmed, in place of [confirm] top"
    )
    parser.add_argument("--again", action="store_true", help="train once more what failed, such as for want of memory")
    parser.add_argument(
        "--second-opening",
        action="store_true",
        help="confirm again with another [confirm], after test rows were seen: recorded, and said in the report",
    )
    work.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Plan where there is no plan, work until nothing is left, and say what came of it; returns the exit code."""
    check_ranks(args.ranks)
    worker.refuse_bad_flags(args)
    url = storage_url(args.storage)
    _announce(args, url)
    with patient("confirm"):
        opened = open_storage(url, create=False)
        members = begun_members(opened, args.study, args.name)
    if not members:
        return _confirm(args, url, opened)
    opened.engine.dispose()
    return in_turn(each_member(args, [row.name for row in members]), partial(_confirm_member, url))


def _announce(args: argparse.Namespace, url: str) -> None:
    name = args.name or args.study
    what = f"plans a confirmation of {name}" if args.plan else f"confirms {name}, with files in {args.runs.absolute()}"
    announce_look(f"{what}, from the search in", url)


def _confirm_member(url: str, args: argparse.Namespace) -> int:
    _announce(args, url)
    with patient("confirm"):
        opened = open_storage(url, create=False)
    return _confirm(args, url, opened)


def _confirm(args: argparse.Namespace, url: str, opened: Database) -> int:
    """The confirmation of one study."""
    with patient("confirm"):
        study = known_search(opened, args.study, args.name).name
        plan = the_plan(opened, study, args)
        known = plan.name in opened.searches.names()
    data = RunConfig.model_validate(plan.configurations[0].run).data
    if not known:
        unseen_sources(data, plan.table, args.cache)
    why = None if known else powerless(data, len(plan.table.seeds))
    if args.plan:
        print("\n".join([*plan_lines(plan), *([] if why is None else [f"nothing can be shown: {why}"])]))
        return 0
    if why is not None and not args.anyway:
        things = scored_as(data)
        raise UserError(
            f"study {study!r}: a confirmation could show nothing, and would open the test rows for it: {why}; take "
            f"more test {things}s or seeds, or train its {plan.trials} networks all the same with --anyway"
        )
    if not known:
        _create(opened, url, plan, args.cache)
    with patient("confirm"):
        if args.again and known:
            _queue_again(opened, url, plan)
        left = not read_progress(opened, plan.name).ended
    opened.engine.dispose()
    code = 0
    if left:
        arguments = ["--study", plan.name, *work.flags(args, without=("set", "name"))]
        script = Path(worker.__file__)
        code = supervise(script, arguments, ranks=args.ranks, restarts=args.restarts, stop_seconds=args.stop_seconds)
    if code == 0:
        with patient("confirm"):
            print("\n".join(outcome(confirmed(opened, study))))
    work.say_how_to_go_on(code)
    return code


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected whole numbers, such as 21,22,23") from None


def _overrides(args: argparse.Namespace) -> list[str]:
    """`--set` and what the flags stand for."""
    seeds = [] if args.seeds is None else [f"confirm.seeds={list(args.seeds)}"]
    top = [] if args.top is None else [f"confirm.top={args.top}"]
    return [*args.set, *seeds, *top]


def the_plan(opened: Database, study: str, args: argparse.Namespace) -> Plan:
    """The plan that is there, or a new one where there is none or a second opening is wished. Raises UserError."""
    rows = read(opened, study)
    if rows.record.get("confirm"):
        raise UserError(f"study {study!r}: is a confirmation itself; give the search that it confirms")
    table = table_of(json.loads(rows.search.settings), _overrides(args), f"[confirm] of {study}")
    before = confirmations(study, opened.searches.names())
    if before and not args.second_opening:
        known = stored_plan(args.storage, before[-1])
        if known.table != table:
            raise UserError(
                f"study {study!r}: was confirmed with another [confirm] ({_difference(known, table)}), so its test "
                "rows were open; to open them again, which the report will say: --second-opening"
            )
        return known
    ended = progress_of(rows, opened.searches.closed).ended
    if not ended and not args.anyway:
        raise UserError(
            f"study {study!r}: has not ended, and what is best may change; let its workers finish, end it "
            f"(python -m search close {study}), or confirm what there is with --anyway"
        )
    dashboard = Dashboard.model_validate(json.loads(rows.search.settings)["dashboard"])
    name = name_of(study, len(before) + 1)
    return made(rows, table, name=name, dashboard=dashboard, early=not ended)


def _difference(known: Plan, table: Any) -> str:
    tables = ({"confirm": each.model_dump(mode="json")} for each in (known.table, table))
    return "; ".join(difference(*tables)[:3])


def _create(opened: Database, url: str, plan: Plan, cache: Path) -> None:
    """Refuse what the data or the teacher speaks against, then make the confirmation."""
    from trainer.distributed.ranks import Ranks
    from trainer.engine.resources import SharedResources

    checked(plan, SharedResources(Ranks("cpu"), cache))
    with patient("confirm"):
        opened_as(opened, url, plan)


def opened_as(opened: Database, url: str, plan: Plan) -> StudyAdapter:
    """The confirmation in the database, made where it is not there."""
    spec = plan.spec()
    return open_search(opened, url, spec, Identity(plan.identity, identities(plan, spec), plan.record()))


def _queue_again(opened: Database, url: str, plan: Plan) -> None:
    """Queue every seed of which no trial is left but failed ones. One that was not finite would be so again."""
    search = opened_as(opened, url, plan)
    for arm in search.arms.values():
        seeds: dict[bool, set[int]] = {True: set(), False: set()}
        for trial in search.trials(arm):
            seeds[trial.state.name == "FAIL"].add(trial.system_attrs["fixed_params"]["seed"])
        for seed in sorted(seeds[True] - seeds[False]):
            search.enqueue(arm, {"seed": seed})


def plan_lines(plan: Plan) -> list[str]:
    """What is trained, a line each, and what it takes."""
    seeds = len(plan.table.seeds)
    text = [f"{plan.name}: {len(plan.configurations)} configurations, each on seeds {list(plan.table.seeds)}"]
    text.append(
        f"{'configuration':<20}{'role':<10}{'trial':>6}{'searched':>10}{'params':>12}{'epochs':>8}{'device time':>14}"
    )
    for each in plan.configurations:
        trial = "" if each.trial is None else f"#{each.trial}"
        searched = "" if each.searched is None else f"{each.searched:.4f}"
        took = format_duration(plan.gpu_seconds[each.name] * seeds)
        text.append(
            f"{each.name:<20}{each.role:<10}{trial:>6}{searched:>10}{each.params:>12,}{each.run['epochs']:>8}{took:>14}"
        )
    total = format_duration(sum(plan.gpu_seconds.values()) * seeds)
    text.append(
        f"{plan.trials} trials, about {total} of one device, as trials of the search took; "
        f"examined on test{_unseen(plan.table.unseen)}"
    )
    threshold = search_threshold(plan.objective.metric)
    at = "each at its own best threshold" if threshold is None else f"at threshold {threshold:g}"
    at = "" if several(RunConfig.model_validate(plan.configurations[0].run)) else f", {at}"
    text.append(f"searched: on validation{at}, unconfirmed")
    if plan.early:
        text.append("the search has not ended: its winners may not be those of its whole budget")
    return text


def _unseen(names: Sequence[str]) -> str:
    return f" and on {', '.join(names)}, which nothing has seen" if names else ""


def _at(thresholds: Iterable[float]) -> str:
    """The thresholds alone."""
    return describe_thresholds(thresholds).removeprefix("thresholds ").removeprefix("threshold ")


def outcome(result: Confirmed) -> list[str]:
    """Mean test score and its deviation over seeds, a line a configuration; then what that shows and does not show."""
    metric = metric_of(result)
    text = [f"{'configuration':<20}{'params':>12}{'test ' + metric:>12}{'SD over seeds':>15}{'seeds':>7}  thresholds"]
    for each in result.configurations:
        there = [one for one in result.findings if one.configuration == each.name and one.part == TEST]
        means = [statistics.fmean(one.columns[metric]) for one in there]
        at = _at(threshold for one in there for threshold in one.thresholds) if there else ""
        spread = f"{statistics.stdev(means):>15.4f}" if len(means) > 1 else f"{'':>15}"
        mean = f"{statistics.fmean(means):>12.4f}" if means else f"{'':>12}"
        text.append(f"{each.name:<20}{each.params:>12,}{mean}{spread}{len(means):>7}  {at}".rstrip())
    if any(one.part == TEST for one in result.findings):
        text.append(f"thresholds: each seed's own, of its scores here: {describe_rule(result)}")
    text += [f"missing: {line}" for line in result.missing]
    if any(one.part == TEST for one in result.findings):
        part = answer(result)
        claims = [claim for claim in part.claims if claim.part == TEST]
        judged = [*claims, *part.class_claims]
        text += [f"differences of test {metric}, with intervals over {part.scored}s and seeds, p corrected (Holm):"]
        text += [f"  {claim_line(each)}" for each in judged]
        text += verdict_lines(judged)
    text.append(f"more: python -m search report {result.study}")
    return text
