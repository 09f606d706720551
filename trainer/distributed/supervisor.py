"""Ranks under an agent in this process, with restarts as torchrun has them; the exit code is the ranks'.

torchrun answers every exit code of a rank with 1, a page of its own and another start. Ranks that know how they end
therefore say so in a file (`record_exit_code`) and end with 0; what is left to an agent are ranks that died.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from loguru import logger

from trainer.distributed.agent import Agent, Stops
from trainer.distributed.temporary import swept_folder
from trainer.errors import UserError, on_stderr

_OUTCOMES = "KD_OUTCOMES"


def supervise(script: Path, arguments: Sequence[str], *, ranks: str, restarts: int, stop_seconds: int) -> int:
    """Run `script arguments` on the ranks of this machine until they end; returns the exit code.

    ranks: a number, "gpu" for one a GPU, or "auto": the same, and one where there is no GPU. restarts: how often ranks
    that died are started again. A signal asks the ranks to stop, and the code is 130 (INT) or 143 (TERM, USR1, HUP);
    those that are still there after stop_seconds are killed. Codes that ranks left come first, and 1 says that the
    ranks died too often. Raises UserError.
    """
    stops = Stops()
    stops.obey()
    check_ranks(ranks)
    count = _count(ranks)
    with swept_folder("kd-work-") as folder:
        agent = Agent(
            [str(script), *arguments],
            ranks=count,
            restarts=restarts,
            stop_seconds=stop_seconds,
            folder=folder,
            variables={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), _OUTCOMES: str(folder)},
        )
        stops.ends_here = False
        died = agent.run(stops.wish)
        stops.ignore()
        # Agents that give up do so with the last start there may be; else the last one that left a code counts.
        left = max(_codes(folder, restarts if died else None), default=0)
    if left:
        return left
    if stops.code is not None:
        return stops.code
    if died:
        logger.error("the ranks died {} times and are not started again; what they said is above", restarts + 1)
    return int(died)


def is_supervised() -> bool:
    """Whether this process is a rank under `supervise`, which has spoken for it already."""
    return _OUTCOMES in os.environ


def record_exit_code(code: int) -> int:
    """What a rank is to end with: under `supervise` its code is kept there, and torchrun, told 0, reports nothing.

    Elsewhere the code itself, and where it cannot be kept.
    """
    folder = os.environ.get(_OUTCOMES)
    if folder is None:
        return code
    try:
        (Path(folder) / f"code-{_start()}-{os.environ['RANK']}").write_text(str(code))
    except OSError as error:
        on_stderr(f"the exit code {code} cannot be kept in {folder}: {error.strerror}")
        return code
    return 0


def exit_code_after_loss() -> int:
    """What a rank without its siblings is to end with: 1, to be started again, or 0 where one of them knows better."""
    folder = os.environ.get(_OUTCOMES)
    return 0 if folder is not None and any(_codes(Path(folder), _start())) else 1


def say_once(line: str) -> None:
    """Print a rank's last line on stderr; under `supervise`, a line that several ranks have is printed by the first."""
    folder = os.environ.get(_OUTCOMES)
    if folder is not None:
        try:
            (Path(folder) / f"line-{sha256(line.encode()).hexdigest()}").touch(exist_ok=False)
        except FileExistsError:
            return
        except OSError as error:  # a full disk: better said by each than by nobody
            logger.debug("{}: {}", folder, error.strerror)
    on_stderr(line)


def _start() -> int:
    """How often the ranks were started again before this start."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _codes(folder: Path, start: int | None) -> list[int]:
    """The codes that ranks left in one start; None: the last one in which any did."""
    files = [(int(file.name.split("-")[1]), file) for file in folder.glob("code-*")]
    wanted = max((number for number, _ in files), default=0) if start is None else start
    return [int(text) for number, file in files if number == wanted and (text := file.read_text())]


def check_ranks(ranks: str) -> None:
    """Raise UserError for ranks that `supervise` cannot start; known without torch, so before anything is said."""
    if ranks not in ("auto", "gpu") and (not ranks.isdecimal() or int(ranks) < 1):
        raise UserError(f"--ranks {ranks}: expected a number of processes, gpu or auto")


def _count(ranks: str) -> int:
    if ranks not in ("auto", "gpu"):
        return int(ranks)
    if ranks == "auto" and not may_have_gpu():
        return 1
    import torch

    gpus = torch.cuda.device_count()
    if ranks == "gpu" and not gpus:
        raise UserError("--ranks gpu: torch finds no GPU here; see nvidia-smi, or give --ranks N for CPU processes")
    return max(gpus, 1)


def may_have_gpu(devices: Path = Path("/dev"), bus: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether torch could find a GPU, told without its import.

    No on a Linux that has neither a file by which a driver of NVIDIA's, AMD's or Windows' is reached nor, as a driver
    may be loaded when it is first wanted, a device of the first two on its bus.
    """
    if sys.platform != "linux" or any((devices / name).exists() for name in _DRIVERS):
        return True
    with suppress(OSError):
        return any(vendor.read_text().strip() in _VENDORS for vendor in bus.glob("*/vendor"))
    return True


_DRIVERS = ("nvidiactl", "nvidia0", "nvgpu", "nvhost-gpu", "kfd", "dxg")
_VENDORS = ("0x10de", "0x1002")
"""NVIDIA and AMD, in the list of pci-ids."""
