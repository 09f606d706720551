"""How ACF-BCKD (Yu et al. 2025, Expert Systems with Applications 262:125670) moves from hard to soft boundaries."""


def hard_share(epoch: int, epochs: int, *, floor: float, gamma: float | None) -> float:
    """The weight of hard boundaries in epoch `epoch` (1 to `epochs`); soft ones have what is left of 1.

    It is 1 in the first epoch and falls by gamma each, down to floor. gamma None: (1 - floor) / epochs, which is what
    the published settings have for BTCV (1000 epochs: 0.001 with floor 0.001, 0.0005 with 0.5) and BraTS (50 epochs:
    0.01 with 0.5); WORD has 0.0015 with 0.5 in 300 epochs. The authors' code counts in memory and begins anew where it
    resumes; this depends on the epoch alone.
    """
    fall = (1.0 - floor) / epochs if gamma is None else gamma
    return max(1.0 - fall * (epoch - 1), floor)
