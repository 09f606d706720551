#!/usr/bin/env bash
# torch 2.13.0, CPU: batch normalisation in fp32 is some fifty times less exact for channels-last maps, and worse the larger they are.
#
# Guess: the order of memory decides how fast a layer is; what it computes in fp32 agrees with double precision to about 1e-7 either way.
# Behaviour: contiguous maps are summed in parts, and mean, variance and gradients agree to 1e-6 at any size. Channels-last maps are summed
# one pixel after the other in fp32, so the error of the running variance grows with the number of pixels: above 3e-6 at 4 x 128 x 128,
# above 1e-5 at sixteen times as many.
# Output seen:
#   4 x 128 x 128, contiguous: variance to 1e-06
#   4 x 128 x 128, channels last: variance not to 3e-06
#   16 x 256 x 256, contiguous: variance to 1e-06
#   16 x 256 x 256, channels last: variance not to 1e-05
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > ask.py <<'PY'
import torch

torch.manual_seed(0)
torch.set_num_threads(1)
for count, side, loose in ((4, 128, 3e-6), (16, 256, 1e-5)):
    maps = torch.randn(count, 8, side, side) * 3 + 5
    exact = maps.double().var((0, 2, 3))
    for name, order in (("contiguous", torch.contiguous_format), ("channels last", torch.channels_last)):
        norm = torch.nn.BatchNorm2d(8, momentum=1.0)
        norm(maps.contiguous(memory_format=order))
        error = ((norm.running_var.double() - exact) / exact).abs().max().item()
        bound = 1e-6 if name == "contiguous" else loose
        kept = "" if error < bound else "not "
        print(f"{count} x {side} x {side}, {name}: variance {kept}to {bound:.0e}")
PY
venv/bin/python -W ignore ask.py | tee seen
diff seen - <<'SEEN'
4 x 128 x 128, contiguous: variance to 1e-06
4 x 128 x 128, channels last: variance not to 3e-06
16 x 256 x 256, contiguous: variance to 1e-06
16 x 256 x 256, channels last: variance not to 1e-05
SEEN
