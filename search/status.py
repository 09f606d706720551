"""`python -m search status`: where a search stands, from the database alone, without data, teacher or study file."""

import argparse
import json
from collections import Counter
from typing import Any

from search.places import add_storage, storage_url
from search.storage import Opened, open_storage, patient
from search.tables import flatten
from trainer.errors import UserError, nearest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.add_argument("study", help="a study's name")
    add_storage(parser)
    parser.add_argument("--name", help="the study's name in the database, where the workers had another")
    parser.add_argument("--json", action="store_true", help="the same figures as one JSON document")


def main(args: argparse.Namespace) -> int:
    """Print the tables."""
    with patient("status"):
        opened = open_storage(storage_url(args.storage), create=False)
        figures = standing(opened, args.name or args.study)
    if args.json:
        print(json.dumps(figures, allow_nan=False, sort_keys=True, indent=1))
    else:
        print("\n".join(lines(figures)))
    return 0


def standing(opened: Opened, name: str) -> dict[str, Any]:
    """All figures of a search. Raises UserError where the study is unknown."""
    row = opened.leases.search(name)
    if row is None:
        raise UserError(f"study {name!r} is not in {opened.label}{nearest(name, opened.leases.names())}")
    record = json.loads(row.spec)
    direction, metric = next(iter(record["objective"].items()))
    arms = opened.leases.arms_of(row.search_id)
    rows = {arm.name: opened.leases.details([arm.study_id]) for arm in arms}
    states = opened.leases.states([arm.study_id for arm in arms])
    pick = max if direction == "maximize" else min
    closed, _ = opened.leases.closed(row.search_id)
    everything = [lease for found in rows.values() for lease in found]
    return {
        "study": name,
        "identity": row.identity,
        "metric": metric,
        "closed": closed,
        "arms": {
            a.name: _arm(rows[a.name], {s: n for (i, s), n in states.items() if i == a.study_id}, a, pick) for a in arms
        },
        "front": _front(record.get("front"), rows, pick),
        "seconds": _sum(everything),
        "gpu_hours": sum(lease.gpu_seconds for lease in everything) / 3600,
        "gpu_hours_of": row.gpu_hours,
        "workers": _workers(opened, [arm.study_id for arm in arms]),
        "holding": dict(Counter(lease.host for lease in everything if lease.state == "held")),
    }


def _arm(rows: list[Any], states: dict[str, int], arm: Any, pick: Any) -> dict[str, Any]:
    scored = [r for r in rows if r.state == "finished" and r.failure is None and r.best_score is not None]
    best = pick(scored, key=lambda r: r.best_score) if scored else None
    return {
        "complete": states.get("COMPLETE", 0),
        "pruned": states.get("PRUNED", 0),
        "running": states.get("RUNNING", 0),
        "waiting": states.get("WAITING", 0),
        "failed": dict(Counter(r.failure for r in rows if r.failure is not None)),
        "of": arm.trials,
        "best": None if best is None else {"score": best.best_score, "trial": best.number},
    }


def _front(path: str | None, rows: dict[str, list[Any]], pick: Any) -> list[dict[str, Any]]:
    """One row a choice of the front: how many finished, and the best of each arm."""
    if path is None:
        return []
    table: dict[Any, dict[str, Any]] = {}
    for arm, leases in rows.items():
        for lease in leases:
            if lease.run is None or lease.failure is not None or lease.weights is None:
                continue
            choice = flatten(json.loads(lease.run)).get(path)
            line = table.setdefault(choice, {"choice": choice, "complete": 0, "best": {}})
            line["complete"] += 1
            line["best"][arm] = pick(line["best"].get(arm, lease.best_score), lease.best_score)
    return sorted(table.values(), key=lambda line: (str(type(line["choice"])), line["choice"]))


def _sum(rows: list[Any]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(json.loads(row.seconds or "{}"))
    return dict(total)


def _workers(opened: Opened, study_ids: list[int]) -> dict[str, dict[str, int]]:
    """By worker (host and a number), how its attempts ended."""
    names: dict[str, str] = {}
    table: dict[str, dict[str, int]] = {}
    for attempt in opened.leases.attempts_of(study_ids):
        name = names.setdefault(attempt.owner, f"{attempt.host}/{len(names) + 1}")
        ends = table.setdefault(name, {})
        why = attempt.why or "running"
        ends[why] = ends.get(why, 0) + 1
    return table


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures as a person reads them."""
    text = [
        f"{figures['study']}  {figures['identity'][:8]}"
        + (f"  no new trials: {figures['closed']}" if figures["closed"] else "")
    ]
    heads = ("complete", "pruned", "running", "waiting", "of")
    text.append(f"{'arm':<14}" + "".join(f"{head:>9}" for head in heads) + f"   {'best so far, unconfirmed':<26}failed")
    for name, arm in figures["arms"].items():
        best = (
            "" if arm["best"] is None else f"{figures['metric']} {arm['best']['score']:.4f} (#{arm['best']['trial']})"
        )
        failed = ", ".join(f"{count} {kind}" for kind, count in arm["failed"].items()) or "0"
        text.append(f"{name:<14}" + "".join(f"{arm[head]:>9}" for head in heads) + f"   {best:<26}{failed}")
    if figures["front"]:
        names = list(figures["arms"])
        text.append(f"{'choice':<14}{'complete':>9}" + "".join(f"{'best ' + name:>18}" for name in names))
        for line in figures["front"]:
            cells = "".join(f"{line['best'][name]:>18.4f}" if name in line["best"] else f"{'':>18}" for name in names)
            text.append(f"{line['choice']!s:<14}{line['complete']:>9}{cells}")
    total = sum(figures["seconds"].values())
    parts = ", ".join(f"{part} {spent / total:.0%}" for part, spent in sorted(figures["seconds"].items()) if total)
    of = "" if figures["gpu_hours_of"] is None else f" of {figures['gpu_hours_of']:g}"
    text.append(f"device hours {figures['gpu_hours']:.3f}{of}  {parts}")
    for name, ends in figures["workers"].items():
        text.append(f"worker {name}: " + ", ".join(f"{count} {why}" for why, count in sorted(ends.items())))
    return text
