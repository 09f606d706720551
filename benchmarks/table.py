"""The tables of a throughput file: seconds, ratios within blocks, and the targets beside them."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.clock import interval

Row = dict[str, Any]

TARGETS = {
    ("r101-16", "steady", "ours-fp32-8"): 1.8,
    ("r101-16", "steady", "ours-bf16-8"): 1.8,
    ("r101-8", "steady", "ours-fp32-8"): 2.7,
    ("r101-8", "steady", "ours-bf16-8"): 2.7,
    ("r18-32", "steady", "ours-fp32-8"): 1.1,
    ("r18-32", "steady", "ours-bf16-8"): 1.1,
    ("r101-16", "steady", "ours-fp32-8-views"): 2.2,
    ("r101-16", "steady", "ours-bf16-8-views"): 2.2,
    ("r101-8", "steady", "ours-fp32-8-views"): 3.5,
    ("r101-8", "steady", "ours-bf16-8-views"): 3.5,
    ("r18-32", "steady", "ours-fp32-8-views"): 1.2,
    ("r18-32", "steady", "ours-bf16-8-views"): 1.2,
    ("r101-16", "short", "ours-fp32-8"): 2.5,
    ("r101-8", "short", "ours-fp32-8"): 3.6,
    ("r101-16", "short", "ours-bf16-8-views"): 6.0,
    ("r101-8", "short", "ours-bf16-8-views"): 8.0,
}
"""(workload, kind of ratio, arm) to what was asked for."""

QUIET_LOAD, STEADY_CALIBRATION = 1.5, 1.15


def tables(rows: Sequence[Row]) -> str:
    """Markdown: for each workload the arms with their seconds, ratios and verdicts."""
    return "\n\n".join(_of_workload(name, rows) for name in dict.fromkeys(row["workload"] for row in rows))


def _of_workload(workload: str, rows: Sequence[Row]) -> str:
    mine = [row for row in rows if row["workload"] == workload]
    names = list(dict.fromkeys(sorted((row["arm"] for row in mine), key=_order)))
    quiet = sum(map(is_quiet, mine))
    lines = [
        f"### {workload}",
        "",
        f"{len({row['block'] for row in mine})} blocks, {len(mine)} runs, {quiet} of them on a quiet machine.",
        "",
        "| arm | epoch of a trial: CPU s (wall) | short trial: CPU s (wall) | steady against tuned, CPU | wall | "
        "short against plain, CPU | wall | teacher passes a step | peak MB | target |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [_line(workload, name, mine) for name in names]
    return "\n".join([*lines, "", *_parts([name for name in names if name.startswith("ours")], mine)])


def _parts(names: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Shares of the wall time of whole runs, by the product's own account; what no part claims is outside.

    *Between epochs* is of the time from the end of the first epoch to that of the last: what a search pays for
    checkpoints, reports, refills and waiting once it runs. *Start*: medians over trials, in ms, of claiming, sampling
    and storing one, and of building its student.
    """
    if not names:
        return []
    kinds = ("data", "teacher", "student", "validation", "other")
    lines = [
        f"| share of the wall time | {' | '.join(kinds)} | outside of epochs | between epochs | start: ask, build |",
        f"| --- |{' ---: |' * 8}",
    ]
    for name in names:
        own = [row for row in rows if row["arm"] == name]
        whole = sum(row["trial"]["wall"] * row["counts"]["trials"] for row in own)
        told = [sum(row["facts"]["seconds"].get(kind, 0.0) for row in own) / whole for kind in kinds]
        between = statistics.median(row["facts"]["between_epochs"] for row in own)
        start = [1e3 * statistics.median(row["facts"].get(part, math.nan) for row in own) for part in ("ask", "build")]
        cells = [*(f"{share:.1%}" for share in (*told, 1 - sum(told), between)), "{:.0f}, {:.0f}".format(*start)]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def _line(workload: str, name: str, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row["arm"] == name]
    cells = [name]
    for part in ("epoch", "trial"):
        cpu = statistics.median(row[part]["cpu"] for row in own)
        walls = [row[part]["wall"] for row in own if is_quiet(row)]
        cells.append(f"{cpu:.2f} ({statistics.median(walls):.2f})" if walls else f"{cpu:.2f}")
    precision = name.split("-")[1]
    found: dict[str, list[float]] = {}
    for kind, part, other in (("steady", "epoch", f"tuned-{precision}"), ("short", "trial", "plain-fp32")):
        for clock in ("cpu", "wall"):
            ratios = within_blocks(rows, other, name, part, clock)
            found[f"{kind} {clock}"] = ratios
            cells.append(_ratio(ratios))
    forwards = [row["facts"].get("teacher_forwards") for row in own]
    passes = 1.0 if forwards[0] is None else forwards[0] / own[0]["counts"]["steps"]
    cells += [f"{passes:.3f}", f"{max(row['facts']['peak_mb'] for row in own)}", _verdicts(workload, name, found)]
    return f"| {' | '.join(cells)} |"


def within_blocks(rows: Sequence[Row], other: str, arm: str, part: str, clock: str) -> list[float]:
    """other / arm for each block that has both, on the wall clock only where both were quiet."""
    ratios = []
    for block in sorted({row["block"] for row in rows}):
        pair = [[r for r in rows if r["block"] == block and r["arm"] == wanted] for wanted in (other, arm)]
        if all(pair) and (clock == "cpu" or all(is_quiet(found[0]) for found in pair)):
            ratios.append(pair[0][0][part][clock] / pair[1][0][part][clock])
    return ratios


def is_quiet(row: Row) -> bool:
    """Whether nothing else ran beside an arm, as far as can be seen: then its wall time says something."""
    before, after = (moment["wall"] for moment in row["calibration"])
    return bool(row["load"] < QUIET_LOAD and max(before, after) / min(before, after) < STEADY_CALIBRATION)


def _ratio(ratios: Sequence[float]) -> str:
    if not ratios:
        return "-"
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    low, high = interval(ratios)
    return f"{statistics.median(ratios):.2f} [{low:.2f}, {high:.2f}]"


def _verdicts(workload: str, name: str, found: dict[str, list[float]]) -> str:
    words = []
    for kind in ("steady", "short"):
        target = TARGETS.get((workload, kind, name))
        ratios = found[f"{kind} wall"] or found[f"{kind} cpu"]
        if target is not None and ratios:
            reached = statistics.median(ratios)
            words.append(f"{kind} {target:g}: {'met' if reached >= target else 'missed'} ({reached:.2f})")
    return "; ".join(words)


def _order(name: str) -> tuple[int, int, int, bool]:
    kind, precision, *more = name.split("-")
    kinds, precisions = ("plain", "tuned", "ours"), ("fp32", "bf16")
    return kinds.index(kind), precisions.index(precision), int(more[0]) if more else 0, "views" in more
