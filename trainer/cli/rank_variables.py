"""The numbers that torchrun, or whatever started the ranks, leaves in the environment."""

import os

from trainer.errors import UserError, received

PARENT = "KD_PARENT"
"""Variable in which a process that starts others names itself: one that is killed before they look is missed, too."""
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that make a process one rank of several."""


def rank_variable(name: str, default: int, least: int = 0) -> int:
    """A variable of the launcher as a number of at least `least`. Raises UserError where it holds something else."""
    text = os.environ.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise UserError(
            f"{name} = {received(text)}: expected a whole number of at least {least}; torchrun sets it for its ranks, "
            f"and for a single process: unset {name}"
        )
    return int(text)


def place_in_world() -> tuple[int, int]:
    """This process's place among all ranks of its launcher, and their number; 0 and 1 without one.

    Raises UserError for variables that contradict each other.
    """
    rank, world = rank_variable("RANK", 0), rank_variable("WORLD_SIZE", 1, least=1)
    if rank >= world:
        raise UserError(
            f"RANK = {rank}, WORLD_SIZE = {os.environ.get('WORLD_SIZE', 'not set')}: expected a place below the number "
            "of ranks; start them with torchrun, or for a single process: unset RANK WORLD_SIZE"
        )
    if world > 1 and "RANK" not in os.environ:
        raise UserError(
            f"WORLD_SIZE = {world}, RANK is not set: start the ranks with torchrun, or for a single process: "
            "unset WORLD_SIZE"
        )
    return rank, world


def given_variables() -> str:
    """The launcher's variables that are set, as a message shows them."""
    return " ".join(f"{name}={os.environ[name]}" for name in LAUNCHER if name in os.environ)
