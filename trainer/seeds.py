"""Every draw of a run comes from its seed and a purpose, never from a global state or a trial's number."""

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**63) for one purpose, such as derive(run.seed, "augment", stream_epoch, index)."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
