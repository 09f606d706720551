#!/usr/bin/env bash
# SimpleITK 2.5.7: the average Hausdorff distance of two masks counts every pixel inside, so it shrinks as objects grow.
#
# Guess: `GetAverageHausdorffDistance` of `HausdorffDistanceImageFilter` is a mean over the two surfaces, as MedPy's `asd`
# and `assd` and MONAI's average surface distance are: two squares of the same size, one moved by two pixels, have 1.0
# whatever their side.
# Behaviour: it is the mean, over all pixels of an object, of the distance to the other object, which is 0 wherever they
# overlap (the mean of the two directions). A square of side 20 has 0.15, and a larger one with the same error of its
# outline less. The maximum is that of the surfaces.
# Output seen:
#   side 10: maximum 2, average 0.3, surfaces' mean (MedPy) 1
#   side 20: maximum 2, average 0.15, surfaces' mean (MedPy) 1
#   side 40: maximum 2, average 0.075, surfaces' mean (MedPy) 1
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check SimpleITK==2.5.7 MedPy==0.5.2 scipy==1.16.3 numpy==2.2.6
cat > ask.py <<'PY'
import numpy
import SimpleITK
from medpy.metric import binary

for side in (10, 20, 40):
    one = numpy.zeros((80, 80), numpy.uint8)
    other = one.copy()
    one[10 : 10 + side, 10 : 10 + side] = 1
    other[10 : 10 + side, 12 : 12 + side] = 1
    filter_ = SimpleITK.HausdorffDistanceImageFilter()
    filter_.Execute(SimpleITK.GetImageFromArray(one), SimpleITK.GetImageFromArray(other))
    largest, mean = filter_.GetHausdorffDistance(), filter_.GetAverageHausdorffDistance()
    surfaces = binary.assd(one, other)
    print(f"side {side}: maximum {largest:.4g}, average {mean:.4g}, surfaces' mean (MedPy) {surfaces:.4g}")
PY
venv/bin/python -W ignore ask.py | tee seen
diff seen - <<'SEEN'
side 10: maximum 2, average 0.3, surfaces' mean (MedPy) 1
side 20: maximum 2, average 0.15, surfaces' mean (MedPy) 1
side 40: maximum 2, average 0.075, surfaces' mean (MedPy) 1
SEEN
