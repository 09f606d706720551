"""How MONAI's networks call what ours are made of, so that a state dict of theirs fills ours: `keys = "monai"`."""

from collections.abc import Callable, Iterator, Mapping

from models.config import NetworkTeacher
from trainer.errors import CheckpointError

Pair = tuple[str, str]
"""The beginning of a key there, and here."""

LEVELS = 3
"""Of a U-Net, those that halve the size."""
BLOCKS = (1, 2, 2, 4)
"""Of SegResNet, on the way down."""


def monai_pairs(config: NetworkTeacher) -> tuple[Pair, ...]:
    """The pairs for a network of ours. Raises CheckpointError where MONAI has none of its form."""
    if config.name not in _PAIRS:
        raise CheckpointError(
            f'teacher.keys = "monai": MONAI has no {config.name} with the same layers; known: {", ".join(_PAIRS)}; or '
            "write pairs [theirs, ours]"
        )
    return pairs_of(config.name)


def pairs_of(name: str) -> tuple[Pair, ...]:
    """The pairs of a network by its name. Raises KeyError where MONAI has none of its form."""
    return tuple(_PAIRS[name]())


def _plain_unet() -> Iterator[Pair]:
    """`UNet(channels=(w, 2w, 4w, 8w), strides=(2, 2, 2), num_res_units=0)`, the deepest level first."""
    yield from _layers("model.1.submodule.1.submodule.1.submodule", "bottom")
    for level in reversed(range(LEVELS)):
        above = "model" + ".1.submodule" * level
        yield from _layers(f"{above}.0", f"downs.{level}")
        yield from _layers(f"{above}.2", f"ups.{LEVELS - 1 - level}.wider")


def _residual_unet() -> Iterator[Pair]:
    """The same with num_res_units=2."""
    yield from _unit("model.1.submodule.1.submodule.1.submodule", "bottom")
    for level in reversed(range(LEVELS)):
        above, up = "model" + ".1.submodule" * level, f"ups.{LEVELS - 1 - level}"
        yield from _unit(f"{above}.0", f"downs.{level}")
        yield from _layers(f"{above}.2.0", f"{up}.wider")
        yield from _unit(f"{above}.2.1", f"{up}.unit")


def _unit(theirs: str, ours: str) -> Iterator[Pair]:
    for number in (0, 1):
        yield from _layers(f"{theirs}.conv.unit{number}", f"{ours}.branch.{number}")
    yield f"{theirs}.residual.", f"{ours}.shortcut."


def _layers(theirs: str, ours: str) -> Iterator[Pair]:
    yield f"{theirs}.conv.weight", f"{ours}.0.weight"
    yield f"{theirs}.conv.bias", f"{ours}.0.bias"
    yield f"{theirs}.adn.A.", f"{ours}.2."


def _segresnet() -> Iterator[Pair]:
    """`SegResNet(init_filters=w, blocks_down=(1, 2, 2, 4), blocks_up=(1, 1, 1))`."""
    yield "convInit.conv.", "stem."
    yield "conv_final.0.", "head.0."
    yield "conv_final.2.conv.", "head.2."
    for level, blocks in enumerate(BLOCKS):
        if level:
            yield f"down_layers.{level}.0.conv.", f"downs.{level - 1}."
            yield f"up_samples.{level - 1}.0.conv.", f"ups.{level - 1}."
            yield from _block(f"up_layers.{level - 1}.0", f"decoders.{level - 1}")
        for number in range(blocks):
            yield from _block(f"down_layers.{level}.{number + 1}", f"encoders.{level}.{number}")


def _block(theirs: str, ours: str) -> Iterator[Pair]:
    for part, place in (("norm1.", 0), ("conv1.conv.", 2), ("norm2.", 3), ("conv2.conv.", 5)):
        yield f"{theirs}.{part}", f"{ours}.branch.{place}."


_PAIRS: Mapping[str, Callable[[], Iterator[Pair]]] = {
    "tiny-unet-3d": _plain_unet,
    "residual-unet-3d": _residual_unet,
    "segresnet": _segresnet,
}
"""Network -> its pairs."""
