#!/usr/bin/env bash
# torch 2.13.0: the average pooling of volumes refuses a map that is smaller than the kernel, padded or not; every other does not.
#
# Guess: a kernel of 3 with padding 1 takes a map of 2 voxels a side, as the documented size of the output says (1 a side), in
# two dimensions and in three, for means as for maxima.
# Behaviour: `avg_pool3d` compares the kernel with the map before the padding and raises; `avg_pool2d`, `max_pool2d` and
# `max_pool3d` with the same arguments give one voxel. A network that averages on its way down (ESPNetV2's in three dimensions)
# so wants larger patches than its twin for images, which only its deepest level notices.
# Output seen:
#   avg_pool2d: (1, 1)
#   max_pool2d: (1, 1)
#   max_pool3d: (1, 1, 1)
#   avg_pool3d: RuntimeError, smaller than kernel size
#   avg_pool3d, padded by hand: (1, 1, 1)
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > ask.py <<'PY'
from torch import ones
from torch.nn import functional

for name in ("avg_pool2d", "max_pool2d", "max_pool3d", "avg_pool3d"):
    sides = (2,) * int(name[-2])
    try:
        answer = tuple(getattr(functional, name)(ones(1, 1, *sides), 3, stride=2, padding=1).shape[2:])
    except RuntimeError as error:
        answer = "RuntimeError" + ", smaller than kernel size" * ("smaller than kernel size" in str(error))
    print(f"{name}: {answer}")
padded = functional.avg_pool3d(functional.pad(ones(1, 1, 2, 2, 2), (1,) * 6), 3, stride=2)
print(f"avg_pool3d, padded by hand: {tuple(padded.shape[2:])}")
PY
venv/bin/python -W ignore ask.py | tee seen
diff seen - <<'SEEN'
avg_pool2d: (1, 1)
max_pool2d: (1, 1)
max_pool3d: (1, 1, 1)
avg_pool3d: RuntimeError, smaller than kernel size
avg_pool3d, padded by hand: (1, 1, 1)
SEEN
