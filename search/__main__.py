"""`python -m search COMMAND`: everything about a search but the training itself."""

import argparse
import importlib
import sys

from loguru import logger

from trainer.errors import guard

COMMANDS = {
    "validate": ("check a study file, its data and its teacher; writes nothing", "validate polyp-kd"),
    "simulate": ("the whole service with curves in place of training", "simulate demo --workers 4"),
    "status": ("trials, widths, workers and failures of a search", "status polyp-kd"),
    "export": ("the best configurations as JSON", "export polyp-kd --top 6 -o best.json"),
    "dashboard": ("optuna-dashboard, with the database from the environment", "dashboard --artifacts runs/artifacts"),
    "enqueue": ("put a trial of your own into the queue", "enqueue polyp-kd student.width=16 optim.lr=1e-3"),
    "close": ("the study is over: nothing begins any more, for good", "close polyp-kd"),
    "db": ("a PostgreSQL of your own, backups, upgrades", "db start --dir $HOME/kd-database"),
    "stop": ("let all workers end after their trials (--now: at once)", "stop polyp-kd"),
}
"""Name to (what it does, an example). Each command's module has `add_arguments(parser)` and `main(args) -> int`."""

MODULES = {"enqueue": "search.steer", "stop": "search.steer"}
"""Commands whose module has another name."""


def parser() -> argparse.ArgumentParser:
    """The command line; modules are imported for the chosen command alone."""
    top = argparse.ArgumentParser(prog="python -m search", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in sys.argv[1:] if word in COMMANDS), None)
    for name, (what, example) in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what, epilog=f"example: python -m search {example}")
        if name == chosen:
            module = importlib.import_module(MODULES.get(name, f"search.{name}"))
            module.add_arguments(command)
            command.set_defaults(main=module.main)
    return top


def main() -> int:
    """Parse and run; exit codes: 0 done, 1 not as promised, 2 the user's mistake, 3 max_failed reached."""
    logger.remove()
    logger.add(sys.stderr, level="INFO", format="{time:HH:mm:ss} {message}")
    args = parser().parse_args()
    return int(args.main(args))


if __name__ == "__main__":
    sys.exit(guard(main))
