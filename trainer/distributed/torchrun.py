"""`python -m trainer.distributed.torchrun OPTIONS`: torchrun for this machine alone, whose agent opens no port."""

import sys
from collections.abc import Sequence

from torch.distributed import run

from trainer.distributed import rendezvous


def main(words: Sequence[str]) -> None:
    """Run torchrun with the options and the program in `words`."""
    rendezvous.register()
    # The endpoint is not used; without one torchrun warns of another option that nobody gave.
    run.main([f"--rdzv-backend={rendezvous.BACKEND}", "--rdzv-endpoint=localhost", *words])


if __name__ == "__main__":
    main(sys.argv[1:])
