#!/usr/bin/env bash
# torch 2.13.0, OpenCV 5.0.0: "area" resizing of a mask keeps an object's area in OpenCV and loses or adds a quarter of it in torch.
#
# Guess: `interpolate(mode="area")` gives each new pixel the mean of the area that it covers, parts of pixels by their share, as
# OpenCV's INTER_AREA does: the sum of a soft mask, in old pixels, stays what it was at any size.
# Behaviour: torch averages whole pixels, and windows overlap where the sizes do not divide: pixels that lie in two windows count twice,
# and each window has the same weight however many it holds. A lesion of 9 pixels in 9 x 9 has 6.6 pixels at 7 x 7 and 11.4 at 8 x 8.
# Where the lesion is large against a pixel the errors cancel; at sizes that divide there are none. So areas and soft labels of small
# objects depend on which program made the mask smaller.
# Output seen (pixels of 9, by the new side):
#   3: torch 9.00 OpenCV 9.00
#   5: torch 9.00 OpenCV 9.00
#   6: torch 9.00 OpenCV 9.00
#   7: torch 6.61 OpenCV 9.00
#   8: torch 11.39 OpenCV 9.00
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 opencv-python-headless==5.0.0.93
cat > ask.py <<'PY'
import cv2
import numpy as np
import torch
from torch.nn.functional import interpolate

mask = np.zeros((9, 9), np.float32)
mask[3:6, 3:6] = 1.0
for side in (3, 5, 6, 7, 8):
    ours = interpolate(torch.from_numpy(mask)[None, None], size=(side, side), mode="area").mean().item()
    theirs = float(cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).mean())
    print(f"{side}: torch {81 * ours:.2f} OpenCV {81 * theirs:.2f}")
PY
venv/bin/python -W ignore ask.py | tee seen
diff seen - <<'SEEN'
3: torch 9.00 OpenCV 9.00
5: torch 9.00 OpenCV 9.00
6: torch 9.00 OpenCV 9.00
7: torch 6.61 OpenCV 9.00
8: torch 11.39 OpenCV 9.00
SEEN
