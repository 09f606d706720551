#!/usr/bin/env bash
# thop 0.1.1, torchinfo 1.8.0, fvcore 0.1.5 beside torch 2.13.0: the same layer has up to 49 times as many multiplications in one as in another.
#
# Guess: the counters that papers take their GFLOPs from differ by a factor of two (multiplications, or multiplications and additions), and
# by what they leave out (activations, normalisation); a convolution's own count is the same in all, transposed or not.
# Behaviour: plain convolutions agree. A transposed one, by which most U-Nets go up, is counted by thop and torchinfo as if each output
# pixel met the whole kernel: 4 times too many at stride 2, 8 times in volumes. torchinfo counts a linear layer over tokens once an image,
# whatever the number of tokens. Attention's two products are left out by thop and torchinfo, and by fvcore where they are
# written as `scaled_dot_product_attention`, so that a network gets cheaper by a third by being written in another way. Tables of
# "GFLOPs" of U-Nets and transformers from different counters rank networks by the counter.
# Output seen (millions of multiplications; torch: half of its floating-point operations):
#   convolution: torch 4.72, fvcore 4.72, thop 4.72, torchinfo 4.72
#   transposed convolution: torch 2.10, fvcore 2.10, thop 8.39, torchinfo 8.39
#   transposed convolution of a volume: torch 8.39, fvcore 8.39, thop 67.11, torchinfo 67.11
#   linear layer over 49 tokens: torch 9.63, fvcore 9.63, thop 9.63, torchinfo 0.20
#   attention as products: torch 14.55, fvcore 14.55, thop 9.63, torchinfo 0.20
#   attention as one call: torch 14.55, fvcore 9.63, thop 9.63, torchinfo 0.20
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 \
    thop==0.1.1.post2209072238 torchinfo==1.8.0 fvcore==0.1.5.post20221221
cat > ask.py <<'PY'
import copy
import logging
import warnings

import thop
import torch
import torchinfo
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)


class Tokens(nn.Module):
    """Queries, keys and values of 49 tokens, and what `mix` makes of them."""

    def __init__(self, mix):
        super().__init__()
        self.to_all, self.mix = nn.Linear(64, 192, bias=False), mix

    def forward(self, tokens):
        return self.mix(*self.to_all(tokens).chunk(3, -1))


def products(query, key, value):
    return (query @ key.transpose(-1, -2)).softmax(-1) @ value


LAYERS = {
    "convolution": (nn.Conv2d(64, 32, 3, padding=1, bias=False), (1, 64, 16, 16)),
    "transposed convolution": (nn.ConvTranspose2d(64, 32, 2, 2, bias=False), (1, 64, 16, 16)),
    "transposed convolution of a volume": (nn.ConvTranspose3d(64, 32, 2, 2, bias=False), (1, 64, 8, 8, 8)),
    "linear layer over 49 tokens": (Tokens(lambda query, key, value: value), (16, 49, 64)),
    "attention as products": (Tokens(products), (16, 49, 64)),
    "attention as one call": (Tokens(nn.functional.scaled_dot_product_attention), (16, 49, 64)),
}
seen = {}
for name, (layer, shape) in LAYERS.items():
    network, given = nn.Sequential(layer).eval(), torch.zeros(shape)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            network(given)
        counts = {"torch": counter.get_total_flops() / 2, "fvcore": FlopCountAnalysis(network, (given,)).total()}
        counts["thop"] = thop.profile(copy.deepcopy(network), (given,), verbose=False)[0]
        counts["torchinfo"] = torchinfo.summary(copy.deepcopy(network), input_data=given, verbose=0).total_mult_adds
    seen[name] = tuple(round(count / 1e6, 2) for count in counts.values())
    print(f"{name}: {', '.join(f'{of} {count / 1e6:.2f}' for of, count in counts.items())}")
assert list(seen.values()) == [
    (4.72, 4.72, 4.72, 4.72),
    (2.1, 2.1, 8.39, 8.39),
    (8.39, 8.39, 67.11, 67.11),
    (9.63, 9.63, 9.63, 0.2),
    (14.55, 14.55, 9.63, 0.2),
    (14.55, 9.63, 9.63, 0.2),
], seen
PY
venv/bin/python ask.py
