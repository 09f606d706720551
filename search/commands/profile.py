"""`python -m search profile`: the table of times that [limits] latency_ms reads, made before a search."""

import argparse
from pathlib import Path

from search.planning.limits import networks
from search.spec.load import find, load
from trainer.errors import UserError


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


def main(args: argparse.Namespace) -> int:
    """Measure every student that the study may train, and write the table. Raises UserError, DataError."""
    from trainer.distributed.launch import writable
    from trainer.profiling.command import describe, machine, measure, target, way_of
    from trainer.profiling.latency_table import extend

    way = way_of(args)
    spec = load(find(args.study), args.set, name=None if not args.set else "profile")
    runs = networks(spec)
    table = args.output or _named(spec.limits.latency_ms.table if spec.limits.latency_ms else None)
    writable(table)
    for number, run in enumerate(runs, 1):
        row = measure(target(run, args.runtime), way)
        # After each, so that an interrupt costs one.
        extend(table, [row])
        print(f"{number}/{len(runs)}  {describe(row)}")
        if number == len(runs):
            print(machine(row))
    print(f"{table}  {len(runs)} networks, weights drawn at random: time does not depend on them")
    return 0


def _named(table: str | None) -> Path:
    from trainer.profiling.latency_table import located

    if table is None:
        raise UserError("-o: missing; name the table to write, and in the study [limits] latency_ms = { max, table }")
    return located(table)
