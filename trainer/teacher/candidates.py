"""Which network a state dict of another program belongs to.

Its keys say which kind of network it may be, and the shapes in its decoder which encoders; each of those that remain is
built on the meta device, without memory, and compared with the file key by key.
"""

import re
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import models
from models.config import NetworkTeacher, names_for, teacher_config
from models.output import Segmenter
from models.torchvision_guard import make_importable
from trainer.cli.missing_packages import remedy
from trainer.errors import CheckpointError
from trainer.teacher.state_dict import COUNTER, Report, fit, renamed

Shapes = Mapping[str, tuple[int, ...]]

SECONDS = 20.0
"""After so long no further candidate is begun."""
PREFIXES = 3
"""Networks in one file that are looked at, the largest first."""
_ROOT = re.compile(r"((?:[^.]+\.)*?)(encoders?)\.")
_TIMM = "encoder.model."
"""How the keys of an encoder from timm begin."""
_UNFIT = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
"""What timm raises for an encoder without a pyramid, and for one that cannot be built on the meta device."""


@dataclass(frozen=True)
class Match:
    """A network beside the file: how far it is from fitting."""

    settings: Mapping[str, Any]
    """Keys of [run.teacher] and their values: name, encoder or width, and `keys` where there are any."""
    report: Report
    odd: tuple[str, ...]
    """Keys in the network's own parts that it has no place for: a forward pass of elsewhere would use them."""
    beside: tuple[str, ...]
    """Keys of other parts, which are left out: other heads, losses, a second network."""
    wrong: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """Name, shape in the file, shape expected."""
    parameters: int
    prefix: str
    """What stands before the keys of its part of the file."""

    @property
    def fits(self) -> bool:
        """Whether the file is this network's, whole."""
        return self.report.covered and not self.odd

    @property
    def distance(self) -> int:
        """How many keys stand in the way."""
        return len(self.report.missing) + len(self.wrong) + len(self.report.twice) + len(self.odd)

    @property
    def title(self) -> str:
        """The network in words."""
        options = [f"{key} {self.settings[key]}" for key in ("encoder", "width") if key in self.settings]
        return " ".join([str(self.settings["name"]), *options])


@dataclass
class Tries:
    """The candidates of one file: those that fit, and what it took to find them."""

    end: float
    """On the monotonic clock: nothing is begun after it."""
    tried: int = 0
    left: int = 0
    """Candidates that there was no time for."""
    matches: list[Match] = field(default_factory=list)

    def begin(self, *, late: bool = False) -> bool:
        """Whether there is time for one more, which there always is where it may be late; it is counted either way."""
        if time.monotonic() > self.end and not late:
            self.left += 1
            return False
        self.tried += 1
        return True

    @property
    def fits(self) -> list[Match]:
        """Those that fit, the likeliest first."""
        return [match for match in self.matches if match.fits]

    @property
    def nearest(self) -> Match | None:
        """The candidate with most keys that match."""
        return max(self.matches, key=lambda match: (match.report.matched, -match.distance), default=None)


def compare(
    tensors: Mapping[str, Tensor], hint: str, *, channels: int, classes: int, seconds: float = SECONDS, dims: int = 2
) -> Tries:
    """Compare a file's tensors with every network that may have them, the likeliest first.

    hint: text that may name the encoder, such as the file's name. dims: axes of space; of networks for volumes all
    names are tried, with their published widths and that of the file's first convolution. Raises CheckpointError where
    the file looks like one of segmentation-models-pytorch and the package is missing.
    """
    theirs = {key: torch.empty_like(tensor, device="meta") for key, tensor in tensors.items()}
    tries = Tries(time.monotonic() + seconds)
    if dims == 3:
        for settings in _of_volumes(theirs):
            with suppress(ValueError):  # a width that the network does not have
                match = against(settings, theirs, channels=channels, classes=classes, dims=dims)
                tries.tried += 1
                tries.matches.append(match)
        return tries
    for prefix, root in _prefixes(theirs):
        inside = {key[len(prefix) :]: tuple(tensor.shape) for key, tensor in theirs.items() if key.startswith(prefix)}
        for settings in _plain(inside, tries) if root == "encoders" else _of_package(inside, hint, tries):
            with suppress(ValueError):  # an encoder that cannot carry such a network
                tries.matches.append(against(settings, theirs, prefix, channels=channels, classes=classes))
    return tries


def against(
    settings: Mapping[str, Any],
    theirs: Mapping[str, Tensor],
    prefix: str = "",
    *,
    channels: int,
    classes: int,
    size: int | None = None,
    dims: int = 2,
) -> Match:
    """A network beside tensors whose keys begin with a prefix. Raises ValueError where no such network can be built.

    size: the side of images, for encoders that are made for one; None: their own.
    """
    network = on_meta(configured(settings), channels, classes, size, dims)
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    inside = {key[len(prefix) :]: tuple(tensor.shape) for key, tensor in theirs.items() if key.startswith(prefix)}
    pairs = [*([(prefix, "")] if prefix else []), *_parts(inside, own)]
    report = fit(network, {key: tensor.to("meta") for key, tensor in theirs.items()}, pairs)
    parts = {name.partition(".")[0] for name in own}
    named = {renamed(key, pairs): tuple(tensor.shape) for key, tensor in theirs.items()}
    return Match(
        settings={**settings, "keys": [list(pair) for pair in pairs]} if pairs else dict(settings),
        report=report,
        odd=tuple(name for name in report.unexpected if name.partition(".")[0] in parts),
        beside=tuple(name for name in report.unexpected if name.partition(".")[0] not in parts),
        wrong=tuple(
            (name, named[name], shape)
            for name, shape in own.items()
            if name in named and named[name] != shape and name not in report.widened
        ),
        parameters=models.parameters(network),
        prefix=prefix,
    )


def configured(settings: Mapping[str, Any]) -> NetworkTeacher:
    """The teacher of these settings. Raises ValueError (pydantic's) where they are none."""
    return teacher_config(**settings)


def on_meta(config: NetworkTeacher, channels: int, classes: int, size: int | None = None, dims: int = 2) -> Segmenter:
    """The network without memory. Raises ValueError in one line where it cannot be built."""
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return models.build(config, in_channels=channels, classes=classes, size=size, dims=dims)


def _of_volumes(theirs: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """The networks for volumes, each as wide as published and as the file's first convolution."""
    first = next((int(tensor.shape[0]) for tensor in theirs.values() if tensor.ndim == 5), None)
    for name in names_for(3):
        usual = configured({"name": name}).options()["width"]
        yield from ({"name": name, "width": width} for width in dict.fromkeys((first, usual)) if width)


def _prefixes(keys: Iterable[str]) -> list[tuple[str, str]]:
    """What stands before the encoders of the file, and how those are called; the one with most keys first."""
    counts = Counter((match[1], match[2]) for match in map(_ROOT.match, keys) if match is not None)
    return [entry for entry, _ in counts.most_common(PREFIXES)]


def _parts(inside: Shapes, own: Shapes) -> list[tuple[str, str]]:
    """Pairs for parts of a network that the file calls otherwise: those with the same names below them."""
    theirs, ours = _by_part(inside), _by_part(own)
    pairs = []
    for part in ours.keys() - theirs.keys():
        alike = [other for other in theirs.keys() - ours.keys() if _named(theirs[other]) == _named(ours[part])]
        if alike:
            best = max(sorted(alike), key=lambda other: _equal(theirs[other], ours[part]))
            pairs.append((f"{best}.", f"{part}."))
    return sorted(pairs)


def _by_part(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    parts: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, shape in shapes.items():
        first, _, rest = name.partition(".")
        parts[first][rest] = shape
    return parts


def _named(shapes: Shapes) -> set[str]:
    return {name for name in shapes if not name.endswith(COUNTER)}


def _equal(theirs: Shapes, ours: Shapes) -> int:
    """How many shapes are equal, the number of classes aside."""
    return sum(theirs[name][1:] == shape[1:] for name, shape in ours.items() if name in theirs)


def _plain(inside: Shapes, tries: Tries) -> Iterator[dict[str, Any]]:
    """The plain networks, as wide as the file's first convolution."""
    widths = [shape[0] for name, shape in inside.items() if name.startswith("encoders.0.") and len(shape) == 4]
    for name in ("unet", "resunet") if widths else ():
        tries.tried += 1
        yield {"name": name, "width": widths[0]}


def _of_package(inside: Shapes, hint: str, tries: Tries) -> Iterator[dict[str, Any]]:
    """Networks of segmentation-models-pytorch whose encoder may be the file's."""
    deep = any(name.startswith("decoder.aspp.") for name in inside)
    architecture = "smp-deeplabv3plus" if deep else "smp-unet"
    package, timm = _package("segmentation_models_pytorch"), _package("timm")
    if any(name.startswith(_TIMM) for name in inside):
        for name in _of_timm(timm, inside, hint, tries):
            yield {"name": architecture, "encoder": f"tu-{name}"}
        return
    refused: set[Any] = set()
    for encoder in _of_its_own(package.encoders.encoders, architecture, inside, hint):
        kind = package.encoders.encoders[encoder]["encoder"]
        if kind not in refused and tries.begin(late=_hinted(encoder, hint)):
            before = len(tries.matches)
            yield {"name": architecture, "encoder": encoder}
            if not tries.matches[before:] or _kinds(tries.matches[-1].report.missing) - _kinds(inside):
                refused.add(kind)  # it cannot carry this network, or has parts that the file knows nothing of


def _kinds(names: Iterable[str]) -> set[str]:
    """The parts of an encoder, their numbers left out."""
    return {re.sub(r"\d+", "", name.split(".")[1]) for name in names if name.startswith("encoder.")}


def _package(name: str) -> ModuleType:
    try:
        make_importable()
        return import_module(name)
    except ModuleNotFoundError as error:
        raise CheckpointError(f"teacher: the file has keys of segmentation-models-pytorch; {remedy(error)}") from error


def _of_its_own(known: Mapping[str, Any], architecture: str, inside: Shapes, hint: str) -> list[str]:
    """The package's own encoders whose channels the decoder in the file takes; where it suits none, all of them, one of
    each kind first."""
    suitable, places, counts = [], {}, Counter[Any]()
    for name, entry in known.items():
        inputs = _decoder_inputs(architecture, entry["params"]["out_channels"])
        if all(inside.get(key, (0, 0))[1] == count for key, count in inputs.items()):
            suitable.append(name)
        places[name] = counts[entry["encoder"]]
        counts[entry["encoder"]] += 1
    return sorted(suitable or known, key=lambda name: (not _hinted(name, hint), places[name]))


def _decoder_inputs(architecture: str, channels: Sequence[int]) -> dict[str, int]:
    """Input channels of convolutions in the decoder, from the encoder's channels at 1/1, 1/2 .. 1/32 of the input."""
    _, one, two, three, four, five = channels
    if architecture == "smp-deeplabv3plus":
        return {"decoder.aspp.0.convs.0.0.weight": five, "decoder.block1.0.weight": two}
    inputs = (five + four, 256 + three, 128 + two, 64 + one, 32)
    return {f"decoder.blocks.{level}.conv1.0.weight": count for level, count in enumerate(inputs)}


def _hinted(name: str, hint: str) -> bool:
    """Whether the hint names an encoder, with whatever signs between the syllables."""
    plain, text = (re.sub(r"[^a-z0-9]+", "-", each.lower()).strip("-") for each in (name, hint))
    return f"-{plain}-" in f"-{text}-"


def _of_timm(timm: ModuleType, inside: Shapes, hint: str, tries: Tries) -> list[str]:
    """Encoders of timm that hold every tensor of the file's; where there is none, the one that holds most of them.

    Candidates have a first convolution of the same name. After those that the hint names comes one of each family; then
    whole families, those first whose keys are built like the file's. Where something fits, families that are built less
    like it are left out.
    """
    wanted = {name.removeprefix(_TIMM): shape for name, shape in inside.items() if name.startswith(_TIMM)}
    wanted = {name: shape for name, shape in wanted.items() if not name.endswith(COUNTER)}
    channels = next((shape[1] for shape in wanted.values() if len(shape) == 4), 3)
    shares: dict[str, float] = {}
    likeness: dict[str, float] = defaultdict(float)

    def look(name: str) -> None:
        if name not in shares and tries.begin(late=_hinted(name, hint)):
            own = _timm_shapes(timm, name, channels)
            shares[name] = sum(own.get(key) == shape for key, shape in wanted.items()) / len(wanted)
            likeness[_family(name)] = max(likeness[_family(name)], _likeness(wanted, own))

    families: dict[str, list[str]] = defaultdict(list)
    flat = {name.replace(".", "_") for name in wanted}
    for name in sorted(timm.list_models(), key=len):
        if _first_there(timm, name, flat):
            families[_family(name)].append(name)
    names = [name for members in families.values() for name in members]
    for name in [*(name for name in names if _hinted(name, hint)), *(members[0] for members in families.values())]:
        look(name)
    best = 0.0
    for family in sorted(families, key=lambda each: -likeness[each]):
        if likeness[family] < best:
            break
        for name in families[family]:
            look(name)
        if any(shares.get(name) == 1.0 for name in families[family]):
            best = likeness[family]
    whole = [name for name, share in shares.items() if share == 1.0]
    whole.sort(key=lambda name: (not _hinted(name, hint), len(name)))
    return whole or sorted(shares, key=lambda name: -shares[name])[:1]


def _family(name: str) -> str:
    """What names of one family begin with: `efficientnetv2`, `resnet5`."""
    match = re.match(r"[a-z]+\d?", name.removeprefix("tf_"))
    return match[0] if match else name


def _likeness(some: Iterable[str], others: Iterable[str]) -> float:
    """The share of names that both have, 0 to 1, their numbers left out."""
    left, right = (
        {re.sub(r"\d+", "", name) for name in names if not name.endswith(COUNTER)} for names in (some, others)
    )
    return len(left & right) / len(left | right)


def _first_there(timm: ModuleType, name: str, flat: set[str]) -> bool:
    """Whether the first convolution of an encoder is among these names, which have `_` for every dot."""
    config = timm.get_pretrained_cfg(name)
    first = config.first_conv if config is not None else None
    firsts = [first] if isinstance(first, str) else list(first or ())
    return bool(firsts) and all(f"{each.replace('.', '_')}_weight" in flat for each in firsts)


def _timm_shapes(timm: ModuleType, name: str, channels: int) -> Shapes:
    """The tensors of an encoder; none where it has no pyramid of features."""
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            network = timm.create_model(name, features_only=True, pretrained=False, in_chans=channels)
    except _UNFIT:
        return {}
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
