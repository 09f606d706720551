#!/usr/bin/env bash
# nibabel 5.4.2: labels that are stored as floats under a label file's header come back beside whole numbers, and a cast lowers each by one.
#
# Guess: floats that are whole numbers (0.0 to 3.0, what a network's argmax or a filter gives) saved with the header of the label file that
# they were made from, whose type is an integer, are stored as these integers: the type holds them exactly.
# Behaviour: floats are spread over all integers that the type has, and the header gets a scale. Under int16 labels come back a little too
# small (by 1e-9 here), so that `astype(uint8)` makes 3 a 2, 2 a 1 and 1 background; under uint8 a little too large, so that a cast is right
# and `== 1` finds nothing. Which of the two it is, and how much (up to 0.04 with twenty labels), depends on the type and the largest label. Arrays of integers are stored as they are.
# Output seen:
#   floats under uint8: equal to its label 23 %, right after astype(uint8) 100 %
#   floats under int16: equal to its label 23 %, right after astype(uint8) 23 %
#   integers under int16: equal to its label 100 %, right after astype(uint8) 100 %
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check nibabel==5.4.2 numpy==2.2.6
cat > ask.py <<'PY'
import nibabel
import numpy as np

labels = np.random.default_rng(0).integers(0, 4, (8, 8, 8))
seen = []
for name, array, kind in (
    ("floats under uint8", labels.astype(np.float32), np.uint8),
    ("floats under int16", labels.astype(np.float32), np.int16),
    ("integers under int16", labels.astype(np.int16), np.int16),
):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(kind)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), header), "labels.nii.gz")
    back = np.asanyarray(nibabel.load("labels.nii.gz").dataobj)
    equal, cast = (back == labels).mean(), (back.astype(np.uint8) == labels).mean()
    seen.append((round(100 * equal), round(100 * cast)))
    print(f"{name}: equal to its label {100 * equal:.0f} %, right after astype(uint8) {100 * cast:.0f} %")
assert seen == [(23, 100), (23, 23), (100, 100)], seen
PY
venv/bin/python ask.py
