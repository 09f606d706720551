#!/usr/bin/env bash
# SimpleITK 2.5.7: nearest neighbours of labels that lie exactly half way depend on how large the volume is.
#
# Guess: where the voxels of the new grid lie half way between two old ones (1 mm to 1.5 mm, 1 mm to 0.5 mm), one rule says
# which of the two is taken, up or down, so that a ball gives the same number of voxels wherever the volume ends.
# Behaviour: the size of the resampled volume decides, too: one ball of radius 6 at one place, 1 mm to 1.5 mm, has another
# number of voxels in a volume of 40 voxels a side than in 41 to 43. Where nothing lies half way (1.6 mm) all are equal.
# Output seen:
#   1.5 mm: 266 282 282 282
#   1.6 mm: 208 208 208 208
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check SimpleITK==2.5.7 numpy==2.4.6
cat > ask.py <<'PY'
import numpy
import SimpleITK


def voxels(side, spacing):
    places = numpy.indices((side, side, side)) - 20
    ball = SimpleITK.GetImageFromArray(((places**2).sum(0) <= 36).astype(numpy.uint8))
    count = int(numpy.rint((side - 1) / spacing + 1))
    resampled = SimpleITK.Resample(
        ball, [count] * 3, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, [0.0] * 3, [spacing] * 3
    )
    return int(SimpleITK.GetArrayFromImage(resampled).sum())


for spacing in (1.5, 1.6):
    print(f"{spacing} mm:", *(voxels(side, spacing) for side in (40, 41, 42, 43)))
PY
venv/bin/python ask.py | tee seen
diff seen - <<'SEEN'
1.5 mm: 266 282 282 282
1.6 mm: 208 208 208 208
SEEN
