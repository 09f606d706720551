"""The memory that something takes at its peak, beyond what there was before."""

import ctypes
import resource
from contextlib import suppress
from pathlib import Path


class Peak:
    """Measures from its making on. device: cpu or cuda."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return
        # What was freed before would hide what is taken now: it is given back first, where the C library can.
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        # Linux forgets its high-water mark when asked; else the highest of the process counts.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _kilobytes("VmRSS:") * 1024

    def megabytes(self) -> float:
        """MB (10^6 bytes) at the peak so far."""
        if self._device == "cuda":
            import torch

            return (torch.cuda.max_memory_allocated() - self._before) / 1e6
        return max(0.0, (_kilobytes("VmHWM:") * 1024 - self._before) / 1e6)


def _kilobytes(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
