"""`python -m trainer.distributed.torchrun OPTIONS`: torchrun for this machine alone, whose agent opens no port.

Where this program is installed, `torchrun --rdzv-backend=kd-local OPTIONS` is the same.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainer.cli.rank_variables import PARENT
from trainer.distributed.signals import end_with_parent

if TYPE_CHECKING:
    from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters

BACKEND = "kd-local"
"""The name of our rendezvous for torchrun's --rdzv-backend."""


def register() -> None:
    """Make our rendezvous known to torchrun in this process, also where this program is not installed."""
    from torch.distributed.elastic.rendezvous.api import rendezvous_handler_registry

    from trainer.distributed import torchrun

    # By its module's name: where this module runs as `__main__`, torchrun may have registered that one already.
    rendezvous_handler_registry.register(BACKEND, torchrun.make_handler)


def entry_point() -> "Callable[[RendezvousParameters], RendezvousHandler]":
    """What torchrun asks of an entry point of its group `torchrun.handlers`: the function that makes a handler.

    torchrun calls this while its own package is being imported, so nothing of that is imported here yet.
    """
    return make_handler


def make_handler(parameters: "RendezvousParameters") -> "RendezvousHandler":
    """The handler of an agent that has this machine to itself. Raises ValueError where more machines are asked for."""
    from trainer.distributed.rendezvous import OneHost

    if parameters.max_nodes != 1:
        raise ValueError(
            f"--nnodes={parameters.min_nodes}:{parameters.max_nodes}: --rdzv-backend={BACKEND} is for one machine; "
            "start a torchrun of its own on each"
        )
    return OneHost(BACKEND, parameters.run_id)


def main(arguments: Sequence[str]) -> None:
    """Run torchrun with the options and the program in `arguments`."""
    end_with_parent()
    os.environ[PARENT] = str(os.getpid())  # for the ranks
    from torch.distributed import run

    register()
    # The endpoint is not used; without one torchrun warns of another option that nobody gave.
    run.main([f"--rdzv-backend={BACKEND}", "--rdzv-endpoint=localhost", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
