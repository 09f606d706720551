"""What a measurement has to say about the machine it was made on."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

TELLING = ("avx", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_tile", "asimd", "asimddp", "sve", "neon")
"""Of a processor's flags, those that decide how fast it multiplies."""
_MODEL = ("model name", "Model", "Hardware")


def processor() -> str:
    """The processor's name as Linux has it, else what Python knows."""
    found = dict(_lines())
    return next((found[key] for key in _MODEL if key in found), platform.processor() or platform.machine())


def flags() -> list[str]:
    """The processor's flags that are in TELLING, in its order."""
    found = dict(_lines())
    own = (found.get("flags") or found.get("Features") or "").split()
    return [flag for flag in TELLING if flag in own]


def cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _lines() -> Iterator[tuple[str, str]]:
    """Keys and values of the last core that Linux lists."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            yield key.strip(), value.strip()
