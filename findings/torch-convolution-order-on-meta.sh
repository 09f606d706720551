#!/usr/bin/env bash
# torch 2.13.0: on the meta device a convolution forgets that its images have channels last, and it alone does.
#
# Guess: a tensor on the meta device has the shape and strides that the operation gives on a real device: that is what a dry run on meta
# is for, and pooling, normalisation and upsampling of images with channels last leave channels last there, as on a processor.
# Behaviour: convolutions, plain and transposed, leave channels last on a processor and in torch's own fake tensors, and are contiguous on
# meta. So a dry run accepts a `view` behind a convolution that a processor refuses, and counts bytes of copies that nobody makes.
# Output seen:
#   Conv2d: processor channels last, meta contiguous, fake channels last
#   ConvTranspose2d: processor channels last, meta contiguous, fake channels last
#   BatchNorm2d: processor channels last, meta channels last, fake channels last
#   MaxPool2d: processor channels last, meta channels last, fake channels last
#   Upsample: processor channels last, meta channels last, fake channels last
#   view behind Conv2d: meta (2, 2048), processor RuntimeError
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > ask.py <<'PY'
from copy import deepcopy

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

LAST = torch.channels_last
images = torch.rand(2, 3, 16, 16).to(memory_format=LAST)


def order(tensor):
    return "contiguous" if tensor.is_contiguous() else "channels last" if tensor.is_contiguous(memory_format=LAST) else "other"


def on_meta(layer):
    return deepcopy(layer).to("meta")(images.to("meta"))


conv = nn.Conv2d(3, 8, 3, padding=1)
for layer in (conv, nn.ConvTranspose2d(3, 8, 2, 2), nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.Upsample(scale_factor=2)):
    layer.to(memory_format=LAST)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = order(layer(mode.from_tensor(images)))
    print(f"{type(layer).__name__}: processor {order(layer(images))}, meta {order(on_meta(layer))}, fake {fake}")
try:
    conv(images).view(2, -1)
    real = "no error"
except RuntimeError:
    real = "RuntimeError"
print(f"view behind Conv2d: meta {tuple(on_meta(conv).view(2, -1).shape)}, processor {real}")
PY
venv/bin/python -W ignore ask.py | tee seen
diff seen - <<'SEEN'
Conv2d: processor channels last, meta contiguous, fake channels last
ConvTranspose2d: processor channels last, meta contiguous, fake channels last
BatchNorm2d: processor channels last, meta channels last, fake channels last
MaxPool2d: processor channels last, meta channels last, fake channels last
Upsample: processor channels last, meta channels last, fake channels last
view behind Conv2d: meta (2, 2048), processor RuntimeError
SEEN
