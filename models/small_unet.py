"""The students of a study that distils U-Net variants (a course project, ECE613): three shapes that have little in
common with their teachers. Known from their number of parameters and a line of description each; no paper gives them.
"""

import torch
from torch import Tensor, nn

from models.blocks import check_size, convolution, level_taps
from models.output import Output, Segmenter, Tap


class SmallUNet(Segmenter):
    """Convolutions with bias, no normalisation, max pooling over 2 x 2. Parameters at width 32 for 3 channels and 2
    classes; each has 288 more for 4 channels.

    - `double` (the student of a U-Net): 136,434. Two double convolutions of width and 2 width with pooling behind each;
      up by transposed convolutions, one skip. Of its description only "32/64 double convolutions" is known: the layers
      behind the encoder are ours, chosen so that their number of parameters is the study's.
    - `tail-attention`, `tail-wide`, `tail-residual` (those of Attention U-Net, of U-Net++ and MultiResUNet, and of
      ResUNet): 29,154, 56,834 and 27,874. Two or three convolutions, one pooling (two in `tail-residual`), and
      transposed convolutions that end in the logits; no skips.
    - `skips` (that of the transformers): 466,562. A U-Net of two poolings, width to 4 width.

    Taps: `enc1`, ..., `mid`, and where something follows before the logits, `dec2`, `dec1`.
    """

    def __init__(self, *, shape: str, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        kind = {"double": _Double, "skips": _Skips}.get(shape)
        self.body: _Body = kind(width, in_channels, classes) if kind else _Tail(shape, width, in_channels, classes)
        self.stride, self.taps = self.body.stride, self.body.taps

    def forward(self, images: Tensor) -> Output:
        """Images (N, in_channels, H, W), H and W multiples of `stride`, to logits (N, classes, H, W). Raises
        ValueError."""
        check_size(images, self.stride, self.name)
        logits, maps = self.body(images)
        return Output(logits, dict(zip(self.taps, maps, strict=True)))


class _Body(nn.Module):
    stride = 4
    taps: dict[str, Tap]


class _Double(_Body):
    def __init__(self, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        half = max(width // 2, 1)
        self.pool = nn.MaxPool2d(2)
        self.first, self.second = _double(in_channels, width), _double(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, 2 * width, 2, stride=2)
        self.between = _conv(2 * width, 2 * width)
        self.last_up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.last = _conv(2 * width, half)
        self.head = nn.Conv2d(half, classes, 1)
        self.taps = {
            "enc1": Tap(width, 1),
            "enc2": Tap(2 * width, 2),
            "mid": Tap(2 * width, 4),
            "dec2": Tap(2 * width, 2),
            "dec1": Tap(half, 1),
        }

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = self.first(images)
        second = self.second(self.pool(first))
        mid = self.pool(second)
        wider = self.between(self.up(mid))
        last = self.last(torch.cat([self.last_up(wider), first], dim=1))
        return self.head(last), [first, second, mid, wider, last]


class _Tail(_Body):
    def __init__(self, shape: str, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        wide = 2 * width
        self.pool = nn.MaxPool2d(2)
        self.stride = 4 if shape == "tail-residual" else 2
        self.first = _conv(in_channels, width)
        self.before = _conv(width, width) if shape == "tail-attention" else nn.Identity()
        self.deepest = _conv(width, wide)
        if shape == "tail-wide":
            self.deepest = nn.Sequential(self.deepest, _conv(wide, wide))
        self.up: nn.Module = nn.Identity()
        self.taps = {"enc1": Tap(width, 1), "mid": Tap(wide, self.stride)}
        deep = wide
        if shape == "tail-residual":
            self.up = nn.Sequential(nn.ConvTranspose2d(wide, width, 2, stride=2), nn.ReLU(inplace=True))
            self.taps["dec2"] = Tap(width, 2)
            deep = width
        self.head = nn.ConvTranspose2d(deep, classes, 2, stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        first = self.before(self.first(images))
        mid = self.deepest(self.pool(first))
        mid = self.pool(mid) if self.stride == 4 else mid
        wider = self.up(mid)
        return self.head(wider), [first, mid, wider][: len(self.taps)]


class _Skips(_Body):
    def __init__(self, width: int, in_channels: int, classes: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.pool = nn.MaxPool2d(2)
        self.encoders = nn.ModuleList(_double(a, b) for a, b in zip([in_channels, *widths], widths, strict=False))
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * here, here, 2, stride=2) for here in widths[1::-1])
        self.decoders = nn.ModuleList(_double(2 * here, here) for here in widths[1::-1])
        self.head = nn.Conv2d(width, classes, 1)
        self.taps = level_taps(widths)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps: list[Tensor] = []
        x = images
        for level, encoder in enumerate(self.encoders):
            x = encoder(self.pool(x) if level else x)
            maps.append(x)
        for up, decoder, skip in zip(self.ups, self.decoders, maps[-2::-1], strict=True):
            x = decoder(torch.cat([up(x), skip], dim=1))
            maps.append(x)
        return self.head(x), maps


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return convolution(inputs, outputs, norm=False, bias=True)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs), _conv(outputs, outputs))
