"""How torchrun's agent comes to its ranks on one machine without opening a port.

torchrun's own ways (`--standalone`, or none named) keep what the agent and its ranks agree on in a TCP store that
listens on every address of the machine, without a password. An agent alone has nobody to meet: its store is a table in
its own memory, and its ranks meet through a file in a private folder (trainer/distributed/stores.py).
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from torch._C._distributed_c10d import HashStore
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo

from trainer.distributed.temporary import MEETING_FOLDER, place


class OneHost(RendezvousHandler):
    """The rendezvous of one agent with itself, as often as it starts its ranks.

    A folder of mode 0700, in which the ranks meet, is made at once, named in the environment that the ranks inherit,
    and removed when this process ends.
    """

    def __init__(self, backend: str, run_id: str) -> None:
        self._backend = backend
        self._run_id = run_id
        self._closed = False
        self._folder = Path(tempfile.mkdtemp(prefix="kd-ranks-", dir=place()))
        os.environ[MEETING_FOLDER] = str(self._folder)
        # Not in `shutdown` alone: an agent that a signal ends does not call it.
        atexit.register(self._remove_folder)

    def get_backend(self) -> str:
        """The name under which torchrun knows this handler."""
        return self._backend

    def next_rendezvous(self) -> RendezvousInfo:
        """This agent is the only one; a restart of its ranks finds nothing of what they had agreed on before."""
        nowhere = RendezvousStoreInfo(master_addr="127.0.0.1", master_port=0)
        return RendezvousInfo(HashStore(), rank=0, world_size=1, bootstrap_store_info=nowhere)

    def is_closed(self) -> bool:
        """Whether `set_closed` was called."""
        return self._closed

    def set_closed(self) -> None:
        """Note that the agent is done."""
        self._closed = True

    def num_nodes_waiting(self) -> int:
        """No further machine can join."""
        return 0

    def get_run_id(self) -> str:
        """The id that torchrun was given, or its default."""
        return self._run_id

    def shutdown(self) -> bool:
        """The ranks have ended: remove the folder."""
        self._remove_folder()
        return True

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
