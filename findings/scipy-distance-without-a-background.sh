#!/usr/bin/env bash
# scipy 1.17.1: the exact distance transform of a mask without a background measures to a voxel that does not exist.
#
# Guess: where no voxel is background there is no nearest one: infinity, or an error, as a mask that fills a patch is common
# in boundary losses.
# Behaviour: `distance_transform_edt` gives finite distances to index (-1, 0, 0), one voxel before the first axis, `sampling`
# included, and `return_indices` names that place. A signed distance map of a full patch is a slope along the first axis, which
# looks like any other. The two other transforms of the same module answer -1 and 1.3e154, OpenCV's 3.4e38.
# Output seen:
#   exact: [1.0, 1.414, 2.236, 2.0, 2.236, 2.828], nearest at -1, 0
#   of a volume with voxels of 3 mm: measured to the voxel before the first: True
#   chamfer: -1, brute force: 1.3e+154, OpenCV: 3.4e+38
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check scipy==1.17.1 numpy==2.4.6 opencv-python-headless==5.0.0.93
cat > ask.py <<'PY'
import cv2
import numpy as np
from scipy import ndimage

full = np.ones((2, 3), np.uint8)
distances, places = ndimage.distance_transform_edt(full, return_indices=True)
row, column = (set(axis.ravel().tolist()) for axis in places)
print(f"exact: {distances.round(3).ravel().tolist()}, nearest at {', '.join(map(str, (*row, *column)))}")
volume = np.ones((4, 5, 6))
z, y, x = np.indices(volume.shape)
before = np.sqrt((3.0 * (z + 1)) ** 2 + y**2 + x**2)
same = np.allclose(ndimage.distance_transform_edt(volume, sampling=(3, 1, 1)), before)
print(f"of a volume with voxels of 3 mm: measured to the voxel before the first: {same}")
chamfer, brute = ndimage.distance_transform_cdt(full), ndimage.distance_transform_bf(full)
opened = cv2.distanceTransform(full, cv2.DIST_L2, 5)
print(f"chamfer: {chamfer.max()}, brute force: {brute.min():.1e}, OpenCV: {opened.min():.1e}")
PY
venv/bin/python -W ignore ask.py | tee seen
diff seen - <<'SEEN'
exact: [1.0, 1.414, 2.236, 2.0, 2.236, 2.828], nearest at -1, 0
of a volume with voxels of 3 mm: measured to the voxel before the first: True
chamfer: -1, brute force: 1.3e+154, OpenCV: 3.4e+38
SEEN
