#!/usr/bin/env bash
# OpenCV 5.0.0: the same warp moves a picture of two channels by up to one pixel against the same picture of one, three or four.
#
# Guess: `warpAffine` treats each channel alike, so that an image of three channels and a stack of two masks, warped by the same matrix,
# stay on one another to the pixel, as they did in OpenCV 4.
# Behaviour: 5.0 has new kernels for one, three and four channels, and two go the former way, with coordinates in 32 steps a pixel and
# another side at half way. By half a pixel, by a turn of 90 degrees about the middle of an image whose sides are one even and one odd, or
# by twice the size, half of the pixels of a stack of two are taken from the neighbour; by linear interpolation a third of a pixel
# gives another value in two thirds of them. A pair of masks (disc and cup, vessels and lesions) so leaves its image where each alone stays.
# Output seen (share of pixels that differ from those of one channel; nearest, linear):
#   OpenCV 4.13.0, half a pixel: 2 channels 0.00 0.00, 3 channels 0.00 0.00
#   OpenCV 4.13.0, a third of a pixel: 2 channels 0.00 0.00, 3 channels 0.00 0.00
#   OpenCV 4.13.0, turned by 90 degrees: 2 channels 0.00 0.00, 3 channels 0.00 0.00
#   OpenCV 5.0.0, half a pixel: 2 channels 0.49 0.24, 3 channels 0.00 0.00
#   OpenCV 5.0.0, a third of a pixel: 2 channels 0.00 0.68, 3 channels 0.00 0.00
#   OpenCV 5.0.0, turned by 90 degrees: 2 channels 0.56 0.10, 3 channels 0.00 0.00
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
cat > ask.py <<'PY'
import sys

import cv2
import numpy as np

one = np.random.default_rng(0).integers(0, 256, (97, 131)).astype(np.uint8)
warps = {
    "half a pixel": np.float64([[1, 0, 0.5], [0, 1, 0]]),
    "a third of a pixel": np.float64([[1, 0, 1 / 3], [0, 1, 0]]),
    "turned by 90 degrees": cv2.getRotationMatrix2D((64.5, 48), 90, 1),
}
differing = {}
for name, matrix in warps.items():
    text = []
    for channels in (2, 3):
        shares = []
        for how in (cv2.INTER_NEAREST, cv2.INTER_LINEAR):
            alone = cv2.warpAffine(one, matrix, (131, 97), flags=how)
            among = cv2.warpAffine(np.dstack([one] * channels), matrix, (131, 97), flags=how)[..., 0]
            shares.append(round(float((alone != among).mean()), 2))
        differing[name, channels] = tuple(shares)
        text.append(f"{channels} channels {shares[0]:.2f} {shares[1]:.2f}")
    print(f"OpenCV {cv2.__version__}, {name}: {', '.join(text)}")
apart = {case for case, shares in differing.items() if max(shares) > 0.1 - 0.01}
assert apart == ({(name, 2) for name in warps} if sys.argv[1] == "apart" else set()), differing
PY
for case in 4.13.0.92:together 5.0.0.93:apart; do
    venv/bin/python -m pip install --quiet --disable-pip-version-check "opencv-python-headless==${case%:*}" numpy==2.2.6
    venv/bin/python ask.py "${case#*:}"
done
