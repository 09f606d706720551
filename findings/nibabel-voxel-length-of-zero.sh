#!/usr/bin/env bash
# nibabel 5.4.2: a NIfTI header whose slices are 0 mm apart is read as 1 mm, in the lengths and in the affine.
#
# Guess: a header with pixdim[3] = 0 and no sform or qform is refused, or gives 0 back, so that a program that divides by
# the spacing, or looks whether it is above 0, finds out.
# Behaviour: loading puts 1 in the place of the 0 before a program can look; `get_zooms()` and the affine agree on it, and
# only the raw bytes of the file still say 0. One log line says so, without the name of the file. Volumes in millimetres
# then are wrong by the true distance of the slices, which is 5 mm or so where it was lost.
# Output seen:
#   in the file: 0.0
#   lengths: (0.7, 0.7, 1.0)
#   affine: (0.7, 0.7, 1.0)
#   log lines: 1
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check nibabel==5.4.2 numpy==2.4.6
cat > ask.py <<'PY'
import logging
import struct
import warnings
from pathlib import Path

import nibabel
import numpy

image = nibabel.Nifti1Image(numpy.zeros((4, 4, 4), numpy.int16), None)
image.header.set_zooms((0.7, 0.7, 5.0))
nibabel.save(image, "case.nii")
content = bytearray(Path("case.nii").read_bytes())
struct.pack_into("<f", content, 88, 0.0)  # pixdim[3]
Path("case.nii").write_bytes(content)

seen = []
handler = logging.Handler()
handler.emit = seen.append
logging.getLogger("nibabel").addHandler(handler)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    read = nibabel.load("case.nii")
    lengths = read.header.get_zooms()
rounded = lambda values: tuple(round(float(value), 3) for value in values)
print("in the file:", struct.unpack_from("<f", content, 88)[0])
print("lengths:", rounded(lengths))
print("affine:", rounded(abs(read.affine.diagonal()[:3])))
print("log lines:", len(seen), *(f"and {len(caught)} warnings" for _ in caught[:1]))
PY
venv/bin/python ask.py | tee seen
diff seen - <<'SEEN'
in the file: 0.0
lengths: (0.7, 0.7, 1.0)
affine: (0.7, 0.7, 1.0)
log lines: 1
SEEN
