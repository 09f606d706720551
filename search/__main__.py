"""`python -m search COMMAND`: everything about a search but the training itself."""

import importlib
import sys
from collections.abc import Sequence

from search.exit_codes import EXIT_CODES
from trainer.cli.missing_packages import absent, interrupted

try:
    from loguru import logger

    from trainer.cli.entry import guard
    from trainer.cli.parser import CommandLine
    from trainer.cli.program import add_version_and_completion, program, wants_completion
except ModuleNotFoundError as error:
    sys.exit(absent(error))
except KeyboardInterrupt:
    sys.exit(interrupted())

SCRIPT = "kd-search"
"""The installed form of `python -m search`."""
COMMANDS = {
    "init": (
        "search.commands.init",
        "write a commented study file for a folder of images and masks",
        "init $POLYP_ROOT/Kvasir-SEG --name mine",
    ),
    "validate": (
        "search.commands.validate",
        "check a study file, its data and its teacher; writes nothing",
        "validate polyp-kd",
    ),
    "simulate": (
        "search.commands.simulate",
        "try the whole service with made-up learning curves; nothing is trained",
        "simulate demo --workers 4",
    ),
    "profile": (
        "search.commands.profile",
        "measure time and memory of every student of a study on this machine",
        "profile demo -o latency.csv",
    ),
    "work": (
        "search.commands.work",
        "run a worker on this machine: it trains trials until none is left",
        "work polyp-kd --ranks 2 --slots 4",
    ),
    "status": (
        "search.commands.status",
        "show trials, pace, workers and failures of a search",
        "status polyp-kd --watch",
    ),
    "list": (
        "search.admin.list",
        "list all searches of a database, with owner, state and pace",
        "list --json",
    ),
    "metrics": (
        "search.dashboard.metrics",
        "serve the figures of all searches of a database to Prometheus",
        "metrics --port 9108",
    ),
    "note": (
        "search.dashboard.note",
        "bring the notes that the dashboard shows of a search up to date",
        "note polyp-kd --artifacts runs/artifacts",
    ),
    "report": (
        "search.report.command",
        "write what a search found as one page, with JSON, CSV and LaTeX",
        "report polyp-kd -o report",
    ),
    "export": (
        "search.commands.export",
        "write the best configurations as JSON, or pack a confirmed student",
        "export polyp-kd --top 6 -o best.json",
    ),
    "dashboard": (
        "search.dashboard.server",
        "watch searches in a browser, with optuna-dashboard",
        "dashboard --artifacts runs/artifacts",
    ),
    "confirm": (
        "search.commands.confirm",
        "train winners and controls again on fresh seeds, and score them on the test images, once",
        "confirm polyp-kd",
    ),
    "enqueue": (
        "search.commands.enqueue",
        "put a trial of your own in front of the queue",
        "enqueue polyp-kd student.width=16 optim.lr=1e-3",
    ),
    "close": (
        "search.admin.close",
        "end a study for good: no trial begins any more",
        "close polyp-kd",
    ),
    "delete": (
        "search.admin.delete",
        "delete a study from the database, and its files, for good; asks first",
        "delete polyp-kd",
    ),
    "db": (
        "search.postgres.command",
        "start a PostgreSQL of your own; back up, restore or upgrade a database",
        "db start --dir $HOME/kd-database",
    ),
    "stop": (
        "search.admin.stop",
        "ask all workers to end after their running trials (--now: at once)",
        "stop polyp-kd --now --wait",
    ),
}
"""Name -> (its module, which has `add_arguments(parser)` and `main(args) -> int`; what it does; an example)."""


def parser(arguments: Sequence[str]) -> CommandLine:
    """The command line; modules are imported for the command alone that `arguments` name, and all for completion."""
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    top = CommandLine(
        prog=program(SCRIPT, "search", arguments),
        description=__doc__,
        epilog=f"example: python -m search validate demo --no-data\n\nexit codes:\n{codes}",
    )
    add_version_and_completion(top, SCRIPT)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in arguments if word in COMMANDS), None)
    for name, (module_name, what, example) in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what, epilog=f"example: python -m search {example}")
        if name == chosen or wants_completion(arguments):
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            command.set_defaults(main=module.main)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; the exit codes are EXIT_CODES."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser(arguments).parse_args(arguments)
    logger.remove()
    logger.add(sys.stderr, level="INFO", format="{time:HH:mm:ss} {message}")
    return int(args.main(args))


def kd_search() -> int:
    """The script `kd-search`."""
    return guard(main)


if __name__ == "__main__":
    sys.exit(kd_search())
