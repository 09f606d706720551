"""`python -m trainer models`: every network by name, with its size, what it costs, its taps and its paper."""

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module

from models import MODELS
from models.config import NetworkConfig, SmpNetwork, names_for, network_config
from models.config.network import PRETRAINED
from models.nearest import OptionError
from trainer.errors import UserError, nearest


@dataclass(frozen=True)
class Kind:
    """What networks for so many axes of space are shown with."""

    channels: int
    classes: int
    sizes: tuple[int, ...]
    """Sides of images in pixels, of patches in voxels."""
    thing: str
    each: str


KINDS: Mapping[int, Kind] = {
    2: Kind(3, 2, (224, 352), "image", "an image"),
    3: Kind(1, 14, (32, 96), "patch", "a patch"),
}
"""By axes of space."""
ENCODER = "resnet18"
"""That networks are shown with which have no encoder of their own."""
MB = 1e6
WORTH_IT = 0.99
"""The part of a step's memory below which it is worth naming."""


@dataclass(frozen=True)
class NetworkFacts:
    """One network with the options that it has by default, for images of 3 channels and 2 classes or for patches of
    volumes with 1 channel and 14 classes."""

    name: str
    dims: int
    """Axes of space: 2 of images, 3 of volumes; a network for both has an entry for each."""
    width: int | None
    """None where it has no such option."""
    encoder: str | None
    parameters: int
    """All of them, the dead ones too."""
    dead: int
    """Those that no gradient reaches."""
    gflops: dict[int, float]
    """By side of the image or patch, where it takes it: billions of floating-point operations of a forward pass over
    one."""
    activations_mb: dict[int, float]
    """By the same: megabytes of one that a training step keeps for its backward pass, fp32."""
    recomputed_mb: dict[int, float]
    """By the same: those of them that are left with recompute = "normalisation"."""
    stride: int
    """Sides are multiples of it."""
    heads: int
    taps: dict[str, tuple[int, int]]
    """By name: channels, and the image's size over the map's."""
    pretrained: str | None
    """Which pretrained encoder weights can be had; None: none."""
    paper: str


def add_arguments(parser: ArgumentParser) -> None:
    """The words of the command."""
    parser.add_argument("network", nargs="?", metavar="NAME", help="show this one alone, tap by tap")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one list, an entry a network and kind of data, on stdout")
    shape.add_argument("--markdown", action="store_true", help="the tables of the README")


def main(args: Namespace) -> int:
    """Print the table: 0. Raises UserError for an unknown name, or one whose package is missing."""
    if args.network is not None and args.network not in MODELS:
        raise UserError(f"models: {args.network!r}: unknown network{nearest(args.network, MODELS)}")
    names = [args.network] if args.network else list(MODELS)
    listed = {dims: rows([name for name in names if name in names_for(dims)], dims) for dims in KINDS}
    if args.json:
        print(json.dumps([asdict(row) for each in listed.values() for row in each], indent=2))
    elif args.markdown:
        print("\n\n".join("\n".join(markdown(list(each))) for each in listed.values()))
    elif args.network:
        print("\n".join(line for each in listed.values() for row in each for line in _details(row)))
    else:
        for dims, each in listed.items():
            for line in _lines(each, dims):
                print(line, flush=True)
    return 0


def rows(names: Sequence[str], dims: int = 2) -> Iterator[NetworkFacts]:
    """What is known of these networks, for images (dims = 2) or volumes (3). Raises UserError where a package is
    missing and only one name was asked for; else such networks are left out."""
    known: dict[str, NetworkFacts] = {}
    for name in names:
        try:
            # Two names may be one network, such as ducknet and ducknet-17.
            same = f"{MODELS[name]} {configured(name).options()}"
            known[same] = replace(known[same], name=name) if same in known else row(name, dims)
            yield known[same]
        except OptionError as error:
            if len(names) == 1:
                raise UserError(f"models: {name}: {error}") from error


def row(name: str, dims: int = 2) -> NetworkFacts:
    """What is known of a network for so many axes of space. Raises OptionError where a package is missing."""
    from models import parameters
    from models.costs import costs

    config = configured(name)
    options = config.options()
    kind = KINDS[dims]
    known = costs(config, in_channels=kind.channels, classes=kind.classes, sizes=kind.sizes, dims=dims)
    network = known.network
    return NetworkFacts(
        name=name,
        dims=dims,
        width=options.get("width"),
        encoder=options.get("encoder") or options.get("backbone"),
        parameters=parameters(network),
        dead=known.dead,
        gflops={cost.size: round(cost.flops / 1e9, 2) for cost in known.by_size},
        activations_mb={cost.size: round(cost.activations / MB, 1) for cost in known.by_size},
        recomputed_mb={cost.size: round(cost.recomputed / MB, 1) for cost in known.by_size},
        stride=network.stride,
        heads=network.deep_heads,
        taps={tap: (int(at.channels), int(at.stride)) for tap, at in network.taps.items()},
        pretrained=_pretrained(config),
        paper=network.paper or paper(name),
    )


def configured(name: str) -> NetworkConfig:
    """A network with its defaults; on ENCODER where it needs to be told an encoder."""
    return network_config(name, encoder=ENCODER) if name.startswith("smp-") else network_config(name)


def paper(name: str) -> str:
    """Authors, year and place: what the first line of a network's file has in its first brackets."""
    text = " ".join((import_module(MODELS[name].partition(":")[0]).__doc__ or "").split())
    listed = re.search(r"\(([^()]*)\)", text)
    return re.split(r", (?:figure|table|section|equation)", listed[1])[0] if listed else ""


def _pretrained(config: NetworkConfig) -> str | None:
    if not set(PRETRAINED) & set(type(config).model_fields):
        return None
    return "its encoder's" if isinstance(config, SmpNetwork) else "imagenet"


WIDTHS = (24, 9, 12, 11, 10, 10, 7, 7, 6, 28, 13, 0)
"""Of the table's columns, so that a line is printed as soon as it is known."""


def _cells(each: NetworkFacts) -> tuple[str, ...]:
    return (
        each.name,
        str(each.width or each.encoder or "-"),
        f"{each.parameters:,}",
        f"{each.dead:,}" if each.dead else "-",
        *(_figure(each.gflops, size, 1) for size in KINDS[each.dims].sizes),
        *(_figure(each.activations_mb, size, 0) for size in KINDS[each.dims].sizes),
        str(each.stride),
        folded(each.taps),
        each.pretrained or "-",
        each.paper,
    )


def _figure(by_size: dict[int, float], size: int, digits: int) -> str:
    """A number of one size; a dash where the network does not take it."""
    return f"{by_size[size]:.{digits}f}" if size in by_size else "-"


def folded(taps: Sequence[str] | dict[str, tuple[int, int]]) -> str:
    """Names of taps in short: `enc1-4 mid dec4-1`, those with a suffix as their number."""
    parts: list[str] = []
    for kind in ("enc", "mid", "gate", "dec"):
        levels = [tap[len(kind) :] for tap in taps if tap.startswith(kind) and "." not in tap]
        if levels:
            parts.append(f"{kind}{levels[0]}" + (f"-{levels[-1]}" if len(levels) > 1 else ""))
    more = sum("." in tap for tap in taps)
    return " ".join([*parts, *([f"+{more}"] if more else [])])


def _lines(listed: Iterator[NetworkFacts], dims: int) -> Iterator[str]:
    kind = KINDS[dims]
    figures = [f"{unit} {size}" for unit in ("GFLOPs", "MB") for size in kind.sizes]
    heads = _aligned(("name", "width", "parameters", "dead", *figures, "stride", "taps", "pretrained", "paper"))
    begun = False
    for each in listed:
        yield from [] if begun else [heads] if dims == 2 else ["", heads]
        begun = True
        yield _aligned(_cells(each))
    if not begun:
        return
    yield (
        f"for {_shown_with(kind)}; MB: what a training step keeps of one {kind.thing}, fp32; a "
        f"multiply-add is two operations; -: it does not take the size; --json has all taps"
    )


def _shown_with(kind: Kind) -> str:
    return f"{kind.channels} channel{'s' if kind.channels > 1 else ''} and {kind.classes} classes"


def _aligned(cells: Sequence[str]) -> str:
    left = (0, 9, 10, 11)
    placed = (
        cell.ljust(width) if at in left else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    )
    return "  ".join(placed).rstrip()


def markdown(listed: Sequence[NetworkFacts]) -> Iterator[str]:
    """The table for the README: parameters in millions, other columns as printed."""
    heads = ["name", "width", "M params", "GFLOPs", "MB", "stride", "taps", "paper"]
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join(['---'] * len(heads))} |"
    for each in listed:
        apart = f"{each.dead / 1e6:.2f}" if each.dead > 1e4 else f"{each.dead} weights"
        dead = f" ({apart} dead)" if each.dead else ""
        cells = [
            f"`{each.name}`",
            str(each.width or each.encoder or ""),
            f"{each.parameters / 1e6:.2f}{dead}",
            *(" / ".join(_figure(by, size, digits) for size in KINDS[each.dims].sizes) for by, digits in _both(each)),
            str(each.stride),
            folded(each.taps),
            each.paper,
        ]
        yield f"| {' | '.join(cells)} |"


def _both(each: NetworkFacts) -> tuple[tuple[dict[int, float], int], ...]:
    return (each.gflops, 1), (each.activations_mb, 0)


def _with_less(each: NetworkFacts, size: int) -> str:
    """What is left of that where normalisations' maps are computed again, if that spares a hundredth at least."""
    kept, left = each.activations_mb[size], each.recomputed_mb[size]
    how = 'recompute = "normalisation"'
    return f", {left:.1f} with {how}" if left < WORTH_IT * kept else f", which {how} does not lessen"


def _details(each: NetworkFacts) -> Iterator[str]:
    """One network in lines."""
    kind = KINDS[each.dims]
    yield f"{each.name}  {each.paper}"
    yield f"for          {'volumes' if each.dims == 3 else 'images'} of {_shown_with(kind)}"
    options = configured(each.name).model_dump(mode="json", exclude={"name", "checkpoint", "mean", "std"})
    if options:
        yield f"options      {'  '.join(f'{key} = {json.dumps(value)}' for key, value in options.items())}"
    yield f"parameters   {each.parameters:,}" + (f", of which {each.dead:,} are never trained" if each.dead else "")
    for size in each.gflops:
        yield (
            f"at {size:<9} {each.gflops[size]:.2f} GFLOPs, {each.activations_mb[size]:.1f} MB {kind.each} kept in a "
            f"training step{_with_less(each, size)}"
        )
    yield f"sizes        multiples of {each.stride}" if each.stride > 1 else "sizes        any"
    yield f"heads        {each.heads or 'none by default'}"
    yield f"pretrained   {each.pretrained or 'none'}"
    for tap, (channels, stride) in each.taps.items():
        yield f"tap          {tap:<14} {channels:>5} channels at 1/{stride}"
