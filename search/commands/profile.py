"""`python -m search profile`: the table of times that [limits] latency_ms reads, made before a search."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from search.planning.limits import networks
from search.spec.load import find, load
from trainer.errors import UserError

if TYPE_CHECKING:
    from search.spec.load import StudySpec
    from trainer.config import RunConfig
    from trainer.profiling.latency_table import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    from trainer.profiling.command import add_measuring

    parser.add_argument("study", help="name in studies/, or a path")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change a value of the file")
    parser.add_argument(
        "--runtime",
        choices=["onnxruntime", "torch"],
        default="onnxruntime",
        help="what computes on the target (default: %(default)s)",
    )
    add_measuring(parser)
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the students' parameters against their times")


def main(args: argparse.Namespace) -> int:
    """Measure every student that the study may train, and write the table. Raises UserError, DataError."""
    from trainer.atomic_files import writable
    from trainer.profiling.command import describe, machine, measure, target, way_of
    from trainer.profiling.latency_table import extend

    way = way_of(args)
    spec = load(find(args.study), args.set, name=None if not args.set else "profile")
    runs = networks(spec)
    table = args.output or _named(spec.limits.latency_ms.table if spec.limits.latency_ms else None)
    writable(table)
    writable(args.plot)
    rows = []
    logger.info("measures {} networks of {} into {}", len(runs), spec.name, table.absolute())
    for number, run in enumerate(runs, 1):
        name = run.student.name
        logger.info("{}/{}: {}, {:g} s of passes are timed", number, len(runs), name, way.seconds)
        row = measure(target(run, args.runtime), way)
        # After each, so that an interrupt costs one.
        extend(table, [row])
        rows.append(row)
        print(f"{number}/{len(runs)}  {describe(row)}")
        if number == len(runs):
            print(machine(row))
    print(f"{table}  {len(runs)} networks, weights drawn at random: time does not depend on them")
    if args.plot is not None:
        _draw(args.plot, spec, runs, rows)
        print(f"{args.plot}  size against time")
    if spec.limits.latency_ms is None:
        print(f'next: bound it in the study file: [limits] latency_ms = {{ max = 5.0, table = "{table}" }}')
    else:
        print(f"next: python -m search validate {shlex.quote(args.study)}")
    return 0


def _draw(path: Path, spec: "StudySpec", runs: "Sequence[RunConfig]", rows: "Sequence[Row]") -> None:
    from search.planning.network_costs import student_size
    from search.report.time_figure import TimedStudent, time_figure
    from trainer.checkpoint import write

    sides = {row.size for row in rows}
    students = [
        TimedStudent(
            row.network,
            f"{row.options} at {row.size}" if len(sides) > 1 else row.options,
            student_size(run).params_m,
            row.median_ms,
            row.p95_ms,
        )
        for run, row in zip(runs, rows, strict=True)
    ]
    first = rows[0]
    pictures = "a picture" if first.batch == 1 else f"{first.batch} pictures"
    side = f" of {first.size} x {first.size}" if len(sides) == 1 else ""
    limit = spec.limits.latency_ms
    bound = limit.max if limit is not None and first.batch == 1 else None
    write(path, time_figure(students, f"ms for {pictures}{side}, {first.runtime} on {first.device}", bound))


def _named(table: str | None) -> Path:
    from trainer.profiling.latency_table import located

    if table is None:
        raise UserError("-o: missing; name the table to write, and in the study [limits] latency_ms = { max, table }")
    return located(table)
