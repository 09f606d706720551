"""`python -m search COMMAND`: everything about a search but the training itself."""

import importlib
import sys
from collections.abc import Sequence

from trainer.installed import absent

try:
    from loguru import logger

    from trainer.errors import guard
    from trainer.words import CommandLine
except ModuleNotFoundError as error:
    sys.exit(absent(error))

COMMANDS = {
    "init": ("a commented study file for a folder of images and masks", "init $POLYP_ROOT/Kvasir-SEG --name mine"),
    "validate": ("check a study file, its data and its teacher; writes nothing", "validate polyp-kd"),
    "simulate": ("the whole service with curves in place of training", "simulate demo --workers 4"),
    "profile": ("time and memory of every student of a study, on this machine", "profile demo -o latency.csv"),
    "work": ("a worker on this machine: trains trials until none is left", "work polyp-kd --ranks 2 --slots 4"),
    "status": ("trials, pace, workers and failures of a search", "status polyp-kd --watch"),
    "note": ("write where a search stands into its studies' notes now", "note polyp-kd --artifacts runs/artifacts"),
    "report": ("what a search found, as one page, with JSON, CSV and LaTeX", "report polyp-kd -o report"),
    "export": ("the best configurations as JSON", "export polyp-kd --top 6 -o best.json"),
    "dashboard": ("optuna-dashboard, with the database from the environment", "dashboard --artifacts runs/artifacts"),
    "confirm": ("winners and controls on fresh seeds, and the one opening of the test rows", "confirm polyp-kd"),
    "enqueue": ("put a trial of your own into the queue", "enqueue polyp-kd student.width=16 optim.lr=1e-3"),
    "close": ("the study is over: nothing begins any more, for good", "close polyp-kd"),
    "db": ("a PostgreSQL of your own, backups, upgrades", "db start --dir $HOME/kd-database"),
    "stop": ("let all workers end after their trials (--now: at once)", "stop polyp-kd --now --wait"),
}
"""Name to (what it does, an example). Each command's module has `add_arguments(parser)` and `main(args) -> int`."""

MODULES = {
    "dashboard": "search.board.dashboard",
    "db": "search.db.command",
    "enqueue": "search.steer",
    "note": "search.board.note",
    "report": "search.report.command",
}
"""Commands whose module has another name."""


EXIT_CODES = {
    0: "done; of a worker: nothing is left to do, or it was asked to stop",
    1: "not as promised: the program found that something it promises does not hold, or has a bug",
    2: "your mistake, in one line: the field, the value, what is known, and what to do",
    3: "max_failed: so many trials failed that the search ended",
    130: "interrupted",
    141: "whoever read the output went away first, such as head",
    143: "TERM, USR1 or HUP told a worker to stop, and its trials were given back",
}
"""Of every command and of the workers."""


def parser(words: Sequence[str]) -> CommandLine:
    """The command line; modules are imported for the command alone that `words` name."""
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    top = CommandLine(
        prog="python -m search",
        description=__doc__,
        epilog=f"example: python -m search validate demo --no-data\n\nexit codes:\n{codes}",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in words if word in COMMANDS), None)
    for name, (what, example) in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what, epilog=f"example: python -m search {example}")
        if name == chosen:
            module = importlib.import_module(MODULES.get(name, f"search.{name}"))
            module.add_arguments(command)
            command.set_defaults(main=module.main)
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Parse and run; the exit codes are EXIT_CODES."""
    words = sys.argv[1:] if words is None else words
    args = parser(words).parse_args(words)
    logger.remove()
    logger.add(sys.stderr, level="INFO", format="{time:HH:mm:ss} {message}")
    return int(args.main(args))


if __name__ == "__main__":
    sys.exit(guard(main))
