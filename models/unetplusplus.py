"""U-Net++ (Zhou et al. 2018, arXiv 1807.10165, figure 1 and equation 1), in the forms of two code bases."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.blocks import check_size, convolution
from models.output import Output, Segmenter, Tap

LEVELS = 5
_Node = tuple[int, int]
"""Level from 0 (full resolution) and place along the skip from 0 (the encoder)."""


class UNetPlusPlus(Segmenter):
    """Five levels of width to 16 width channels; between encoder and decoder stand further nodes, each joined with all
    before it on its level and with the one below.

    Form `zh320` (zh320's distillation code): a level goes down by max pooling over 3 x 3, every link up is a 3 x 3
    transposed convolution to the width of its level, and the outermost diagonal is thinner: its nodes return the width
    of the level above. Form `awesome` (Awesome-U-Net): max pooling over 2 x 2, links up are bilinear and keep their
    channels, convolutions have a bias. Batch normalisation in both; the paper has none.

    Parameters at width 32 for 3 channels and 2 classes: zh320 8,534,624, with heads 8,534,816; awesome 9,163,362, with
    heads 9,163,560. Heads (deep supervision, section 3.2) are 1 x 1 convolutions of the three nodes of level 1 before
    the last.

    Taps: `enc1`..`enc4`, `mid`, and by column the nodes between, `dec<k>.<j>`, and the diagonal, `dec<k>`.
    """

    stride = 2 ** (LEVELS - 1)

    def __init__(
        self, *, width: int, in_channels: int, classes: int, form: str = "zh320", deep_supervision: bool = False
    ) -> None:
        super().__init__()
        deep = form == "zh320"
        widths = [width * 2**level for level in range(LEVELS)]
        self.encoders = nn.ModuleList(_double(a, b, bias=not deep) for a, b in pairwise([in_channels, *widths]))
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if deep else nn.MaxPool2d(2)
        self.ups, self.nodes = nn.ModuleDict(), nn.ModuleDict()
        channels: dict[_Node, int] = {(level, 0): each for level, each in enumerate(widths)}
        for level, place in _order():
            below, here = channels[level + 1, place - 1], widths[level]
            last = level + place == LEVELS - 1
            returned = max(here // 2, width) if deep and last else here
            self.ups[f"{level}-{place}"] = _transposed(below, here) if deep else _bilinear()
            inputs = place * here + (here if deep else below)
            self.nodes[f"{level}-{place}"] = _double(inputs, returned, bias=not deep)
            channels[level, place] = returned
        self.head = nn.Conv2d(width, classes, 1, bias=not deep)
        self.deep_heads = LEVELS - 2 if deep_supervision else 0
        self.heads = nn.ModuleList(nn.Conv2d(width, classes, 1, bias=not deep) for _ in range(self.deep_heads))
        self.taps = {f"enc{level + 1}": Tap(each, 2**level) for level, each in enumerate(widths[:-1])}
        self.taps["mid"] = Tap(widths[-1], self.stride)
        self.taps |= {_tap(node): Tap(channels[node], 2 ** node[0]) for node in _order()}

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), H and W multiples of 16, to logits (N, classes, H, W) and, in training mode
        with deep supervision, three heads. Raises ValueError."""
        check_size(images, self.stride, self.name)
        maps: dict[_Node, Tensor] = {}
        x = images
        for level, encoder in enumerate(self.encoders):
            x = maps[level, 0] = encoder(self.pool(x) if level else x)
        for level, place in _order():
            wider = self.ups[f"{level}-{place}"](maps[level + 1, place - 1])
            before = [maps[level, earlier] for earlier in range(place)]
            maps[level, place] = self.nodes[f"{level}-{place}"](torch.cat([*before, wider], dim=1))
        supervised = self.heads if self.training else ()
        return Output(
            self.head(maps[0, LEVELS - 1]),
            dict(zip(self.taps, maps.values(), strict=True)),
            tuple(head(maps[0, place]) for place, head in enumerate(supervised, start=1)),
        )


def _order() -> list[_Node]:
    """The nodes behind the encoder, column by column, the deepest first."""
    return [(level, place) for place in range(1, LEVELS) for level in range(LEVELS - 1 - place, -1, -1)]


def _tap(node: _Node) -> str:
    level, place = node
    return f"dec{level + 1}" if level + place == LEVELS - 1 else f"dec{level + 1}.{place}"


def _double(inputs: int, outputs: int, *, bias: bool) -> nn.Sequential:
    return nn.Sequential(convolution(inputs, outputs, bias=bias), convolution(outputs, outputs, bias=bias))


def _bilinear() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)


def _transposed(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
