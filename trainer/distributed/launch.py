"""Start a command's ranks: in this process, or as processes of their own."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from loguru import logger

from trainer.cli.entry import MISTAKES
from trainer.cli.rank_variables import place_in_world
from trainer.distributed import signals
from trainer.distributed.agent import INTERRUPTED, SAME_STOP_SECONDS, Agent, Stops, signals_as_before
from trainer.distributed.listening import open_agent
from trainer.distributed.temporary import swept_folder
from trainer.errors import UserError, one_line

if TYPE_CHECKING:
    from trainer.distributed.ranks import Ranks

STALL_SECONDS = 1800.0
"""How late a rank may be, decoding of a whole data set by another one included."""
STOP_SECONDS = 100.0
"""How long ranks may take to end after they were asked to, as `search work` has it."""
STOPPING = (
    "asked to stop: ends after this step, what was trained since the last epoch is lost; a second signal more than "
    f"{SAME_STOP_SECONDS:g} s later ends at once"
)
"""What a single run says to a signal but Ctrl-C, which ends it at once."""
STOPPED = 130
"""Exit code of a command that was asked to stop."""
LOST = 70
"""Exit code of a rank whose siblings broke."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    lines: tuple[str, ...]
    """What it says at the end, on stdout."""
    code: int = 0
    error: str | None = None
    """One line for stderr in place of lines."""


def say_beginning(args: Namespace, what: str) -> None:
    """What a command that is going to train does, before torch is imported; once for all of its ranks."""
    if args.outcome is None and os.environ.get("RANK", "0") == "0":
        logger.info("{}; prepared data in {}", what, args.cache.absolute())


def launch(
    args: Namespace,
    body: Callable[["Ranks"], Outcome],
    *,
    ranks: int,
    threads: int | None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run `body` on each of `ranks` ranks and say what the lead's outcome says. Returns the exit code.

    With more than one rank the command line, or `arguments` in its place, is started again on each of them; there, and
    under a torchrun that the user started, this process is one of the ranks. Raises UserError, and KeyboardInterrupt
    where a Ctrl-C ended the ranks.
    """
    device(args.device)
    if "RANK" not in os.environ and ranks > 1:
        return _say(_several(ranks, threads, sys.argv[1:] if arguments is None else arguments))
    outcome, ended = _rank(args, body, place_in_world()[1], threads)
    code = 0
    if args.outcome is not None:
        place = args.outcome / f"{int(os.environ['RANK']):05d}.json"
        place.write_text(json.dumps(asdict(outcome)))
    elif os.environ.get("RANK", "0") == "0":
        code = _say(outcome)
    if not ended:
        # The siblings are lost: whatever torch.distributed still waits for must not hold this process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def device(name: str | None) -> str | None:
    """A device that exists; None for the best there is. Raises UserError."""
    if name is None:
        return None
    import torch

    try:
        torch.zeros((), device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        known = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise UserError(f"--device {name}: is not here; known: {known}") from error
    return name


def _rank(args: Namespace, body: Callable[["Ranks"], Outcome], world: int, threads: int | None) -> tuple[Outcome, bool]:
    """The outcome on this rank, and whether the ranks parted in order."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        signals.end_with_parent()
    import torch

    from trainer.distributed.ranks import Ranks, RanksLost
    from trainer.reports import RunFailed, Stopped

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        ranks = Ranks.join(world, stall=STALL_SECONDS, device=args.device)
    except (ValueError, RuntimeError) as error:
        return Outcome((), 2, one_line(error)), True
    signals.obey_signals(ranks.ask_to_stop, STOPPING, also_interrupt=False)
    if "TORCHELASTIC_RUN_ID" in os.environ and place_in_world()[0] == 0 and (warning := open_agent(os.getppid())):
        print(warning, file=sys.stderr)
    try:
        outcome = body(ranks)
        ranks.leave()
    except RanksLost as lost:
        return Outcome((), LOST, one_line(lost)), False
    except RunFailed as failed:
        failure = failed.failure
        bug, mistake = failure.kind == "bug", failure.kind in ("bad_data", "storage")
        return Outcome((), 2 if mistake else 1, failure.detail if bug else one_line(failed)), True
    except Stopped as stopped:
        return Outcome((), STOPPED, one_line(stopped)), True
    except MISTAKES as error:
        # Perhaps on this rank alone: its siblings then lose it at once, and the command still names the mistake.
        return Outcome((), 2, one_line(error)), world == 1
    return outcome, True


def _several(ranks: int, threads: int | None, arguments: Sequence[str]) -> Outcome:
    """The outcome of ranks in processes of their own."""
    stops = Stops()
    with swept_folder("kd-train-") as folder, signals_as_before():
        agent = Agent(
            ["-m", "trainer", *arguments, "--outcome", str(folder)],
            ranks=ranks,
            restarts=0,
            stop_seconds=STOP_SECONDS,
            folder=folder,
            variables={"OMP_NUM_THREADS": str(threads or os.environ.get("OMP_NUM_THREADS", 1))},
        )
        stops.ends_here = False
        stops.obey()
        agent.run(stops.wish)
        known = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    if stops.code == INTERRUPTED:
        raise KeyboardInterrupt
    outcomes = [Outcome(tuple(each["lines"]), each["code"], each["error"]) for each in known]
    if not outcomes and stops.code is not None:
        return Outcome((), STOPPED, "asked to stop")
    if not outcomes:
        return Outcome((), 1, f"the {ranks} ranks ended without a result; what they said is above")
    # The lead's outcome, unless a sibling knows better why the lead lost it.
    return next((each for each in outcomes if each.code not in (0, LOST)), outcomes[0])


def _say(outcome: Outcome) -> int:
    for line in outcome.lines:
        print(line)
    if outcome.error is not None:
        print(outcome.error if outcome.code == STOPPED else f"error: {outcome.error}", file=sys.stderr)
    return outcome.code
