#!/usr/bin/env bash
# nnunetv2 2.8.1, MONAI 1.6.1: the Gaussian weights of a window are the same for odd sides only; nnU-Net's are off centre for even ones.
#
# Guess: "Gaussian, sigma an eighth of the side" names one set of weights: the same numbers in both, symmetric about the middle of
# the window, as a patch of 128 voxels has no voxel in its middle but two beside it.
# Behaviour: nnU-Net puts the peak on voxel side // 2 and smooths from there, cut at four deviations. A window of an even side,
# which is nearly every patch there is, so trusts its far half more than its near one: the first voxel has no weight of its own
# (it gets the smallest number that is there), the last has. MONAI's peak lies between the two middle voxels. Predictions of a
# whole case that are compared across the two differ although network, tiling and sigma are equal.
# Output seen:
#   side 8: nnU-Net [0.0, 0.011, 0.135, 0.607, 1.0, 0.607, 0.135, 0.011], MONAI [0.002, 0.05, 0.368, 1.0, 1.0, 0.368, 0.05, 0.002]
#   side 9: equal: True
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 monai==1.6.1 nnunetv2==2.8.1
cat > ask.py <<'PY'
import torch
from monai.data.utils import compute_importance_map
from nnunetv2.inference.sliding_window_prediction import compute_gaussian


def line(weights):
    middle = weights[weights.shape[0] // 2, weights.shape[1] // 2]
    return [round(float(each / weights.max()), 3) for each in middle]


def both(side):
    size = (side, side, side)
    ours = compute_gaussian(size, sigma_scale=1 / 8, dtype=torch.float32, device=torch.device("cpu"))
    return line(ours), line(compute_importance_map(size, mode="gaussian", sigma_scale=1 / 8))


nnunet, monai = both(8)
print(f"side 8: nnU-Net {nnunet}, MONAI {monai}")
nnunet, monai = both(9)
print(f"side 9: equal: {nnunet == monai}")
PY
venv/bin/python -W ignore ask.py 2>/dev/null | grep "^side" | tee seen
diff seen - <<'SEEN'
side 8: nnU-Net [0.0, 0.011, 0.135, 0.607, 1.0, 0.607, 0.135, 0.011], MONAI [0.002, 0.05, 0.368, 1.0, 1.0, 0.368, 0.05, 0.002]
side 9: equal: True
SEEN
