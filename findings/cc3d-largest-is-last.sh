#!/usr/bin/env bash
# connected-components-3d 4.1.1: of the k largest objects, the largest gets the highest number, and it depends on k.
#
# Guess: `largest_k(mask, k=3)` numbers objects by falling size, so that label 1 is the largest, as after the usual sort of components by
# size, and `largest_k(...) == 1` keeps the organ.
# Behaviour: label 1 is the smallest of those that are kept, and the largest is label k; where there are fewer than k objects it is their
# number. So `== 1` keeps another object with each k, and never the largest but with k = 1.
# Output seen:
#   voxels by label, k = 1: 36
#   voxels by label, k = 2: 16 36
#   voxels by label, k = 3: 4 16 36
#   voxels by label, k = 9: 4 16 36
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check connected-components-3d==4.1.1 numpy==2.4.6
cat > ask.py <<'PY'
import cc3d
import numpy as np

mask = np.zeros((1, 20, 20), dtype=bool)
for start, side in ((0, 2), (5, 4), (12, 6)):
    mask[0, start : start + side, start : start + side] = True

seen = {}
for k in (1, 2, 3, 9):
    labels = cc3d.largest_k(mask, k=k)
    seen[k] = [int((labels == label).sum()) for label in range(1, int(labels.max()) + 1)]
    print(f"voxels by label, k = {k}:", *seen[k])
assert seen == {1: [36], 2: [16, 36], 3: [4, 16, 36], 9: [4, 16, 36]}, seen
PY
venv/bin/python ask.py
