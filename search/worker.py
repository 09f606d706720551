"""A worker: `torchrun --rdzv-backend=kd-local --nproc-per-node=N search/worker.py --study NAME`, any number of them.

Each torchrun's ranks are cut into groups; each group trains several students of the study side by side, taking trials
from the database until none is left. Exit codes: 0 nothing is left, or asked to stop; 2 the user's
mistake; 3 max_failed. torchrun itself ends with 1 and a report of its own where they are not 0;
`python -m search work NAME` starts the same ranks, ends with their code and says what they say.
"""

import gc
import sys
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # until all is imported: none of it is ever garbage, and looking through it takes a second
    # torchrun puts the script's own folder first on the path, where `search/` would hide nothing but miss `trainer/`.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
import shlex
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from trainer.cli.missing_packages import absent

try:
    from loguru import logger
except ModuleNotFoundError as error:
    sys.exit(absent(error))

from trainer.distributed import signals

if __name__ == "__main__" and "TORCHELASTIC_RUN_ID" in os.environ:
    signals.end_with_parent()

from search.storage.url import DEFAULT, add_storage, add_wait, storage_url
from search.study.known import elsewhere, remember
from trainer import loggers
from trainer.cli.entry import guard
from trainer.cli.live_line import LiveLine
from trainer.cli.numbers import MOST_SECONDS, real, whole
from trainer.cli.parser import CommandLine, Flags
from trainer.cli.rank_variables import place_in_world, rank_variable
from trainer.distributed import supervisor
from trainer.distributed.listening import open_agent
from trainer.errors import UserError, one_line
from trainer.profiling.slots import AUTO, USUAL

if TYPE_CHECKING:
    from search.spec.load import StudySpec

STUDY_HELP = "a study's name (a file in studies/) or the path of its file"


def arguments() -> argparse.Namespace:
    """The worker's flags."""
    parser = CommandLine(
        description=__doc__,
        epilog="example: torchrun --rdzv-backend=kd-local --nproc-per-node=2 search/worker.py --study polyp-kd",
    )
    parser.add_argument("--study", required=True, help=STUDY_HELP)
    add_flags(parser, under_torchrun=True)
    return parser.parse_args()


def add_flags(parser: argparse.ArgumentParser, *, under_torchrun: bool = False) -> None:
    """All flags but the study's name, in groups. under_torchrun: `--log` is shown as what torchrun leaves alone."""
    study = parser.add_argument_group("the study")
    study.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change a value of the file")
    study.add_argument("--name", help="another study name; needed where --set changes what a trial is")
    _add_speed(parser.add_argument_group("speed"))
    _add_places(parser.add_argument_group("places"), under_torchrun=under_torchrun)
    _add_times(parser.add_argument_group("seldom needed (seconds)"))


def _add_speed(group: Flags) -> None:
    group.add_argument(
        "--slots",
        type=_slots,
        default=USUAL,
        metavar="N|auto",
        help="students side by side in a group of ranks (default 4); auto: from a few timed steps",
    )
    group.add_argument(
        "--ranks-per-trial",
        type=whole(1),
        metavar="N",
        help="ranks that train one trial together (default: as many as leave each of them 8 images of a batch)",
    )


def _add_places(group: Flags, *, under_torchrun: bool) -> None:
    add_storage(group)
    group.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="folder of checkpoints, shared by all machines (default runs)",
    )
    group.add_argument(
        "--cache",
        type=Path,
        default=Path("cache"),
        metavar="DIR",
        help="folder of decoded data, one on each machine (default cache)",
    )
    group.add_argument(
        "--artifacts",
        type=Path,
        metavar="DIR",
        help="folder of files that the dashboard shows (default: artifacts in --runs)",
    )
    group.add_argument(
        "--spare",
        type=Path,
        metavar="DIR",
        help="folder on another disk, for what a worker that ends could not write to --runs (default: the temporary "
        "folder, or memory)",
    )
    loggers.add_flags(group, under_torchrun=under_torchrun)


def _add_times(group: Flags) -> None:
    group.add_argument(
        "--note-every",
        type=real(0, MOST_SECONDS),
        default=60.0,
        metavar="SECONDS",
        help="shortest time between two updates of the dashboard's notes (default 60; 0: never)",
    )
    group.add_argument(
        "--ttl",
        type=real(0, MOST_SECONDS, above=True),
        default=60.0,
        metavar="SECONDS",
        help="a worker without a heartbeat for so long counts as dead, and others go on with its trials (default 60)",
    )
    group.add_argument(
        "--stall",
        type=real(0, MOST_SECONDS, above=True),
        default=300.0,
        metavar="SECONDS",
        help="how long one rank may keep the others waiting (default 300)",
    )
    add_wait(group)


def _slots(text: str) -> int | str:
    """A whole number or `auto`."""
    if text == AUTO:
        return AUTO
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number and not {AUTO}") from None


def specification(args: argparse.Namespace) -> "StudySpec":
    """The study that a worker's flags name: a file, or a confirmation in the database. Raises UserError."""
    from search.spec.file import find, is_confirmation
    from search.spec.load import load

    if args.name is not None or not is_confirmation(args.study):
        from search.study.begun import as_begun

        return as_begun(load(find(args.study), args.set, name=args.name), args.storage)
    from search.confirm.data_checks import planned

    return planned(args)


def announce(args: argparse.Namespace) -> None:
    """Say which search in which database is joined or begun, and where its files go: before Optuna is imported.

    Raises UserError for a mistake in the study file, and for what is no database URL.

    Where a search of that name is in another folder's database, as this account knows it, that one is named: whoever
    starts a worker in a wrong folder begins a second search there.
    """
    from search.spec.file import find, is_confirmation
    from search.spec.load import load
    from search.storage.glance import glance

    given = args.name is not None or not is_confirmation(args.study)
    name = load(find(args.study), args.set, name=args.name).name if given else args.study
    look = glance(storage_url(args.storage), name)
    logger.info("{}: {}; files in {}", name, look.text(), args.runs.absolute())
    if look.file is None:
        return
    others = elsewhere(name, look.file) if look.begun is False else []
    for other in others[:1]:
        usual = other.parts[-2:] == DEFAULT.parts
        way = f"cd {shlex.quote(str(other.parents[1]))}" if usual else f"give --storage sqlite:///{other}"
        logger.warning("{}: a search of this name is in {}: to go on with that one, stop this and {}", name, other, way)
    remember(name, look.file)


def main() -> int:
    """Join the siblings and work; returns the exit code."""
    parent = os.getppid()  # torchrun's agent; it may be gone by the time that its ranks have met
    args = arguments()
    _log(place_in_world()[0] == 0, LiveLine())
    refuse_bad_flags(args)
    if place_in_world()[0] == 0:
        _say_beginning(args)
    spec = specification(args)
    import torch

    from search.execution.start import work
    from search.exit_codes import CODE_OF_END
    from trainer.distributed.ranks import Ranks, RanksLost, ranks_per_trial

    gc.freeze()
    gc.enable()
    _, world = place_in_world()
    size = args.ranks_per_trial or ranks_per_trial(world, spec.run.batch_size)
    try:
        ranks = Ranks.join(size, stall=args.stall)
    except ValueError as error:
        raise UserError(one_line(error)) from None
    live_line = LiveLine()
    _log(ranks.leads, live_line)
    signals.obey_signals(ranks.ask_to_stop)
    if "TORCHELASTIC_RUN_ID" in os.environ and ranks.leads and ranks.group == 0 and (warning := open_agent(parent)):
        logger.warning("{}", warning)
    try:
        end = work(args, spec, ranks, live_line)
        group = f": group {ranks.group} of {ranks.groups}" if ranks.groups > 1 else ""
        logger.info("{}{} ends: {}", spec.name, group, end.text)
        ranks.leave()
    except RanksLost as lost:
        logger.error("{}; this process ends, torchrun may restart it (--max-restarts)", lost)
        _leave_at_once()
    except torch.cuda.OutOfMemoryError:
        logger.error("out of memory outside of any trial: use fewer --slots\n{}", traceback.format_exc())
        _leave_at_once()
    return CODE_OF_END[end.reason]


def refuse_bad_flags(args: argparse.Namespace) -> None:
    """Raise UserError for what no worker can work with: known without torch, so before anything else is done."""
    if args.slots != AUTO and args.slots < 1:
        raise UserError(f"--slots = {args.slots}: at least 1, or auto")
    loggers.check_loggers(args.mirror)


def _say_beginning(args: argparse.Namespace) -> None:
    """The first rank says which start of how many this is, and what `announce` says; under `search work` at the first
    start alone, and `search confirm` has spoken for it already."""
    from search.spec.file import is_confirmation

    again, most = (rank_variable(f"TORCHELASTIC_{name}", 0) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    if again:
        logger.warning("a rank died: all of them start again ({} of {})", again, most)
    confirms = args.name is None and is_confirmation(args.study)
    if not supervisor.is_supervised() or not (again or confirms):
        announce(args)


def _leave_at_once() -> None:
    # Threads and process groups that wait for a lost sibling must not hold the process: torchrun restarts it.
    sys.stderr.flush()
    os._exit(supervisor.exit_code_after_loss())


def run(act: Callable[[], int]) -> NoReturn:
    """Run a rank to its end: with the code that `act` returns, or with 1 and a traceback, to be started again.

    At once where a disk still holds a writer up: torch would crash the process while Python clears up.
    """
    try:
        code = supervisor.record_exit_code(guard(act, supervisor.say_once, names_refusals=False))
    except Exception:  # noqa: BLE001 - a bug; no code is left for the siblings, so torchrun starts the ranks again
        traceback.print_exc()
        code = 1
    from search.execution import checkpoint_writer

    if checkpoint_writer.is_writing():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    gc.freeze()  # else Python looks through all of torch twice before the process ends, which takes half a second
    sys.exit(code)


def _log(leads: bool, line: LiveLine) -> None:
    logger.remove()
    logger.add(line.log, level="INFO" if leads else "WARNING", format="{time:HH:mm:ss} {message}")


if __name__ == "__main__":
    run(main)
