"""`python -m trainer models`: every network by name, with its size, what it costs, its taps and its paper."""

import json
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module

from models import MODELS
from models.config import NetworkConfig, SmpNetwork, network_config
from models.config.network import PRETRAINED
from models.nearest import OptionError
from trainer.errors import UserError, nearest

SIZES = (224, 352)
"""Sides of images in pixels."""
CHANNELS, CLASSES = 3, 2
ENCODER = "resnet18"
"""That networks are shown with which have no encoder of their own."""
MB = 1e6


@dataclass(frozen=True)
class NetworkFacts:
    """One network with the options that it has by default, for 3 channels and 2 classes."""

    name: str
    width: int | None
    """None where it has no such option."""
    encoder: str | None
    parameters: int
    """All of them, the dead ones too."""
    dead: int
    """Those that no gradient reaches."""
    gflops: dict[int, float]
    """By side of the image, where it takes it: billions of floating-point operations of a forward pass over one."""
    activations_mb: dict[int, float]
    """By side of the image: megabytes an image that a training step keeps for its backward pass, fp32."""
    stride: int
    """Sides of images are multiples of it."""
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
    shape.add_argument("--json", action="store_true", help="one list, an entry a network, on stdout")
    shape.add_argument("--markdown", action="store_true", help="the table of the README")


def main(args: Namespace) -> int:
    """Print the table: 0. Raises UserError for an unknown name, or one whose package is missing."""
    if args.network is not None and args.network not in MODELS:
        raise UserError(f"models: {args.network!r}: unknown network{nearest(args.network, MODELS)}")
    names = [args.network] if args.network else list(MODELS)
    listed = rows(names)
    if args.json:
        print(json.dumps([asdict(row) for row in listed], indent=2))
    elif args.markdown:
        print("\n".join(markdown(list(listed))))
    elif args.network:
        print("\n".join(_details(next(listed))))
    else:
        for line in _lines(listed):
            print(line, flush=True)
    return 0


def rows(names: Sequence[str]) -> Iterator[NetworkFacts]:
    """What is known of these networks. Raises UserError where a package is missing and only one name was asked for;
    else such networks are left out."""
    known: dict[str, NetworkFacts] = {}
    for name in names:
        try:
            # Two names may be one network, such as ducknet and ducknet-17.
            same = f"{MODELS[name]} {configured(name).options()}"
            known[same] = replace(known[same], name=name) if same in known else row(name)
            yield known[same]
        except OptionError as error:
            if len(names) == 1:
                raise UserError(f"models: {name}: {error}") from error


def row(name: str) -> NetworkFacts:
    """What is known of a network. Raises OptionError where a package is missing."""
    from models import parameters
    from models.costs import costs

    config = configured(name)
    options = config.options()
    known = costs(config, in_channels=CHANNELS, classes=CLASSES, sizes=SIZES)
    network = known.network
    return NetworkFacts(
        name=name,
        width=options.get("width"),
        encoder=options.get("encoder") or options.get("backbone"),
        parameters=parameters(network),
        dead=known.dead,
        gflops={cost.size: round(cost.flops / 1e9, 2) for cost in known.by_size},
        activations_mb={cost.size: round(cost.activations / MB, 1) for cost in known.by_size},
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


HEADS = (
    "name",
    "width",
    "parameters",
    "dead",
    *(f"GFLOPs {size}" for size in SIZES),
    *(f"MB {size}" for size in SIZES),
    "stride",
    "taps",
    "pretrained",
    "paper",
)
WIDTHS = (24, 9, 12, 11, 10, 10, 7, 7, 6, 28, 13, 0)
"""Of the table's columns, so that a line is printed as soon as it is known."""


def _cells(each: NetworkFacts) -> tuple[str, ...]:
    return (
        each.name,
        str(each.width or each.encoder or "-"),
        f"{each.parameters:,}",
        f"{each.dead:,}" if each.dead else "-",
        *(_figure(each.gflops, size, 1) for size in SIZES),
        *(_figure(each.activations_mb, size, 0) for size in SIZES),
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


def _lines(listed: Iterator[NetworkFacts]) -> Iterator[str]:
    yield _aligned(HEADS)
    for each in listed:
        yield _aligned(_cells(each))
    yield (
        f"for {CHANNELS} channels and {CLASSES} classes; MB: what a training step keeps of one image, fp32; a "
        f"multiply-add is two operations; -: it does not take the size; --json has all taps"
    )


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
            *(" / ".join(_figure(values, size, digits) for size in SIZES) for values, digits in _both(each)),
            str(each.stride),
            folded(each.taps),
            each.paper,
        ]
        yield f"| {' | '.join(cells)} |"


def _both(each: NetworkFacts) -> tuple[tuple[dict[int, float], int], ...]:
    return (each.gflops, 1), (each.activations_mb, 0)


def _details(each: NetworkFacts) -> Iterator[str]:
    """One network in lines."""
    yield f"{each.name}  {each.paper}"
    options = configured(each.name).model_dump(mode="json", exclude={"name", "checkpoint", "mean", "std"})
    if options:
        yield f"options      {'  '.join(f'{key} = {json.dumps(value)}' for key, value in options.items())}"
    yield f"parameters   {each.parameters:,}" + (f", of which {each.dead:,} are never trained" if each.dead else "")
    for size in each.gflops:
        yield (
            f"at {size:<9} {each.gflops[size]:.2f} GFLOPs, {each.activations_mb[size]:.1f} MB an image kept in a "
            f"training step"
        )
    yield f"sizes        multiples of {each.stride}" if each.stride > 1 else "sizes        any"
    yield f"heads        {each.heads or 'none by default'}"
    yield f"pretrained   {each.pretrained or 'none'}"
    for tap, (channels, stride) in each.taps.items():
        yield f"tap          {tap:<14} {channels:>5} channels at 1/{stride}"
