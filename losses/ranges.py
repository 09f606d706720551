"""Published values and search ranges of every loss's options: the one table of them. Free of torch.

`"losses.cwd" = "default"` in [space] of a study file takes the ranges of a term from here, and docs/study-file.md
prints the table. What a file leaves out of [run.losses] has the default of `losses.config`, which stays what it was,
since runs are identified by it; where a paper has another value, it stands here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from losses.config import NEEDS_TEACHER


@dataclass(frozen=True)
class SearchedOption:
    """One option of a loss: its published value, and what a search draws it from."""

    published: float | str
    source: str
    """Where the value and the range are from."""
    low: float | None = None
    high: float | None = None
    log: bool = True
    """Whether a range is drawn evenly over the logarithm."""
    choices: tuple[float | str, ...] = ()

    @property
    def searched(self) -> bool:
        """Whether there is something to draw from."""
        return self.low is not None or bool(self.choices)

    def entry(self) -> dict[str, Any]:
        """What stands for it in [space]."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {})}


_OURS = "range: ours, none is published"
_AS_KL = "range: as that of kl"
_MEMORY = {"weight": SearchedOption(0.1, f"CIRKD; {_OURS}", 0.01, 1.0), "temperature": SearchedOption(0.1, "CIRKD")}
_T_KL = SearchedOption(4.0, "zh320, U-Net study, DKD's code", 1.0, 10.0)
_T_CWD = SearchedOption(4.0, "Shu et al. 2021", 1.0, 8.0)

RANGES: Mapping[str, Mapping[str, SearchedOption]] = {
    "ce": {"weight": SearchedOption(1.0, "all studies; the measure of the other weights")},
    "ohem": {
        "weight": SearchedOption(1.0, "zh320"),
        "threshold": SearchedOption(0.7, "zh320"),
        "min_share": SearchedOption(1 / 16, "zh320"),
    },
    "dice": {"weight": SearchedOption(1.0, "MONAI's DiceCE")},
    "ce-dice": {
        "weight": SearchedOption(1.0, "all studies"),
        "ce": SearchedOption(0.5, "CASCADE, SelfReg, Awesome U-Net", choices=(0.3, 0.4, 0.5)),
    },
    "bce-dice": {
        "weight": SearchedOption(1.0, "ours"),
        "bce": SearchedOption(0.5, "ours, no value is published", 0.0, 1.0, log=False),
    },
    "structure": {
        "weight": SearchedOption(1.0, "Fan et al. 2020"),
        "window": SearchedOption(31, "Fan et al. 2020"),
    },
    "kl": {
        "weight": SearchedOption(1.0, "zh320, CIRKD; for the mean over voxels", 0.1, 50.0),
        "temperature": _T_KL,
    },
    "mse": {"weight": SearchedOption(1.0, f"zh320 of logits; ACF has 10 of sigmoids; {_AS_KL}", 0.1, 50.0)},
    "dice-kl": {
        "weight": SearchedOption(1.0, "ours"),
        "alpha": SearchedOption(0.5, "ours, the study's is not public", 0.1, 0.9, log=False),
        "temperature": SearchedOption(4.0, f"ours, the study's is not public; {_AS_KL}", 1.0, 10.0),
    },
    "cwd": {"weight": SearchedOption(3.0, "Shu et al. 2021; ACF has 1", 0.5, 100.0), "temperature": _T_CWD},
    "cwd-features": {"weight": SearchedOption(50.0, "Shu et al. 2021", 0.5, 100.0), "temperature": _T_CWD},
    "dist": {
        "weight": SearchedOption(1.0, "Huang et al. 2022"),
        "temperature": SearchedOption(1.0, "Huang et al. 2022; ACF has 4", 1.0, 5.0),
        "beta": SearchedOption(1.0, "Huang et al. 2022; without effect with two classes", 0.1, 10.0),
        "gamma": SearchedOption(1.0, "Huang et al. 2022", 0.1, 10.0),
    },
    "at": {"weight": SearchedOption(1000.0, "Zagoruyko and Komodakis 2017; CIRKD has 10000, ACF 200", 1e2, 1e5)},
    "nkd": {
        "weight": SearchedOption(1.0, "Yang et al. 2023"),
        "temperature": SearchedOption(1.0, "Yang et al. 2023; without effect with two classes", 1.0, 5.0),
        "gamma": SearchedOption(1.5, "Yang et al. 2023; without effect with two classes", 0.5, 3.0, log=False),
    },
    "dkd": {
        "weight": SearchedOption(1.0, "Zhao et al. 2022; ACF has 0.1", 0.01, 2.0),
        "temperature": SearchedOption(4.0, "Zhao et al. 2022", 1.0, 8.0),
        "alpha": SearchedOption(1.0, "Zhao et al. 2022"),
        "beta": SearchedOption(8.0, "Zhao et al. 2022; without effect with two classes", 0.5, 10.0),
        "warmup": SearchedOption(20, "Zhao et al. 2022; ACF has none"),
    },
    "skd-pixel": {"weight": SearchedOption(10.0, "Liu et al. 2019", 1.0, 50.0)},
    "skd-pair": {
        "weight": SearchedOption(1.0, "Liu et al. 2019", 0.1, 10.0),
        "scale": SearchedOption(0.5, "Liu et al. 2019", choices=(0.0625, 0.125, 0.25, 0.5)),
    },
    "ifvd": {"weight": SearchedOption(200.0, "Wang et al. 2020; CIRKD has 20", 1.0, 500.0)},
    "acfd": {
        "weight": SearchedOption(1.0, "Yu et al. 2025"),
        "alpha": SearchedOption(25_000.0, "Yu et al. 2025; range: as the weight of at", 1e2, 1e5),
        "beta": SearchedOption(25_000.0, "Yu et al. 2025; range: as the weight of at", 1e2, 1e5),
    },
    "boundary-hard": {
        "weight": SearchedOption(1.0, f"Yu et al. 2025; {_OURS}", 0.1, 10.0),
        "floor": SearchedOption(0.5, "Yu et al. 2025; also 0.001 on BTCV; one value for both boundary terms"),
    },
    "boundary-soft": {
        "weight": SearchedOption(1.0, f"Yu et al. 2025; {_OURS}", 0.1, 10.0),
        "floor": SearchedOption(0.5, "Yu et al. 2025; as that of boundary-hard"),
    },
    "cirkd-pixel": {
        "weight": SearchedOption(1.0, f"Yang et al. 2022; {_OURS}", 0.1, 10.0),
        "temperature": SearchedOption(0.1, "Yang et al. 2022; ACF has 1", choices=(0.1, 1.0)),
    },
    "cirkd-memory": _MEMORY,
    "cirkd-region": _MEMORY,
    "selfreg": {"weight": SearchedOption(0.015, "Zhu et al. 2024; 0.1 on ACDC", 1e-3, 0.3)},
}
"""Loss -> option -> its values. `zh320`, `ACF` and `CIRKD` are the code of studies that distil several methods."""


def default_space(term: str, methods: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The paths of [space] that search a term, each with its entry; nothing for a term without ranges.

    methods: the choices of `method` where it is searched. What needs a teacher is live where they name it.
    """
    naming = [method for method in methods if term in method.split("+")]
    when = {"when": {"method": naming}} if term in NEEDS_TEACHER and naming and len(naming) < len(methods) else {}
    for option, values in RANGES[term].items():
        if values.searched:
            yield f"losses.{term}.{option}", {**values.entry(), **when}
