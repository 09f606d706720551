"""A random state of its own for each member of a cohort, so that neighbours never change each other's draws."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Draws:
    """The state of torch's generators on the host and on one device, swapped in while its owner draws."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._device = device
        self._states: list[Tensor] = []
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start again from a seed."""
        outer = self._now()
        torch.manual_seed(seed)
        self._states = self._now()
        self._set(outer)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Draw from this state; the outer one is back afterwards, unchanged."""
        outer = self._now()
        self._set(self._states)
        try:
            yield
        finally:
            self._states = self._now()
            self._set(outer)

    def _now(self) -> list[Tensor]:
        on_device = [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
        return [torch.get_rng_state(), *on_device]

    def _set(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for state in states[1:]:
            torch.cuda.set_rng_state(state, self._device)
