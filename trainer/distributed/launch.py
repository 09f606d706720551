"""Start a command's ranks: in this process, or as the ranks of a torchrun of its own."""

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from trainer.cli.entry import MISTAKES
from trainer.cli.rank_variables import PARENT, place_in_world
from trainer.distributed import signals
from trainer.distributed.listening import open_agent
from trainer.distributed.supervisor import SAME_STOP_SECONDS
from trainer.distributed.temporary import PLACE, swept_folder
from trainer.errors import UserError, one_line, refusal_text
from trainer.loggers import past_torchrun

if TYPE_CHECKING:
    from trainer.distributed.ranks import Ranks

STALL_SECONDS = 1800.0
"""How late a rank may be, decoding of a whole data set by another one included."""
END_SECONDS = 30.0
"""How long ranks may take to end after they were asked to."""
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

    With more than one rank the command line, or `arguments` in its place, is started again under torchrun; there, and
    under a torchrun that the user started, this process is one of the ranks. Raises UserError.
    """
    for name, number in (("--ranks", ranks), ("--threads", threads)):
        if number is not None and number < 1:
            raise UserError(f"{name} {number}: expected 1 or more")
    device(args.device)
    if "RANK" not in os.environ and ranks > 1:
        return _say(_torchrun(ranks, threads, past_torchrun(sys.argv[1:]) if arguments is None else arguments))
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


def writable(path: Path | None) -> None:
    """Make the folder of a file that is to be written, before hours go into its content. Raises UserError."""
    if path is None or str(path) == "-":
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        allowed = os.access(path.parent, os.W_OK) and not path.is_dir()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({refusal_text(error)}); choose another place") from error
    if not allowed:
        raise UserError(f"{path}: cannot be written (a folder, or in one without permission); choose another place")


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
    if args.outcome is not None:
        (args.outcome / f"{os.getpid()}.pid").touch()
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


def _torchrun(ranks: int, threads: int | None, arguments: Sequence[str]) -> Outcome:
    with swept_folder("kd-train-") as folder:
        options = ["-m", "trainer.distributed.torchrun", f"--nproc-per-node={ranks}", f"--log-dir={folder / 'log'}"]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads or os.environ.get("OMP_NUM_THREADS", 1)),
            PARENT: str(os.getpid()),
            PLACE: str(folder),
        }
        command = [sys.executable, *options, "-m", "trainer", *arguments, "--outcome", str(folder)]
        # A terminal tells its whole process group of a Ctrl-C; torchrun would answer with a traceback.
        child = subprocess.Popen(command, env=environment, start_new_session=True)
        _wait(child, folder)
        known = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    outcomes = [Outcome(tuple(each["lines"]), each["code"], each["error"]) for each in known]
    if not outcomes:
        return Outcome((), 1, f"the {ranks} ranks ended without a result (exit code {child.returncode})")
    # The lead's outcome, unless a sibling knows better why the lead lost it.
    return next((each for each in outcomes if each.code not in (0, LOST)), outcomes[0])


def _wait(child: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Wait for torchrun. Its ranks live in sessions of their own, so an interrupt here is handed on to them."""

    def hand_on(*_: object) -> None:
        # Asked themselves, the ranks agree on the step after which they stop; torchrun would end them with a traceback.
        ready = [int(file.stem) for file in folder.glob("*.pid")]
        for rank in ready:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGTERM)
        if not ready:
            child.terminate()

    with _handed_on(hand_on):
        _wait_for(child, hand_on)


@contextmanager
def _handed_on(hand_on: Callable[..., None]) -> Iterator[None]:
    """Inside, what asks this process to stop asks its ranks; a hang-up that nohup has it ignore stays ignored."""
    asking = [number for number in signals.ASKING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, hand_on) for number in asking}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for(child: "subprocess.Popen[bytes]", hand_on: Callable[..., None]) -> None:
    try:
        child.wait()
    except KeyboardInterrupt:
        hand_on()
        try:
            child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            child.terminate()
            child.wait()
        raise


def _say(outcome: Outcome) -> int:
    for line in outcome.lines:
        print(line)
    if outcome.error is not None:
        print(outcome.error if outcome.code == STOPPED else f"error: {outcome.error}", file=sys.stderr)
    return outcome.code
