#!/usr/bin/env bash
# MedPy 0.5.2: the Dice of two empty masks is 1 with numpy 2.2 and nan with numpy 2.3, where their IoU is 1 with both.
#
# Guess: `dc` of two empty masks is 1.0, as its source says (`except ZeroDivisionError: dc = 1.0`), with every numpy that
# MedPy takes, since a count of pixels is a whole number of Python's.
# Behaviour: from numpy 2.3 on `numpy.count_nonzero` returns a number of numpy's, whose division by zero is nan with a
# RuntimeWarning and no exception. So the rules for empty masks in `dc`, `precision`, `recall` and `specificity` are dead code:
# what was 1 (or 0) is nan, and a mean over cases is nan with the first case that lacks the organ. `jc` turns its counts
# into floats of Python's and keeps its rule.
# Output seen:
#   numpy 2.2.6: dc 1.0, jc 1.0, precision 0.0, recall 0.0
#   numpy 2.3.5: dc nan, jc 1.0, precision nan, recall nan
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
cat > ask.py <<'PY'
import numpy
from medpy.metric import binary

empty = numpy.zeros((4, 4), bool)
scores = (f"{name} {getattr(binary, name)(empty, empty)}" for name in ("dc", "jc", "precision", "recall"))
print(f"numpy {numpy.__version__}: {', '.join(scores)}")
PY
for version in 2.2.6 2.3.5; do
  venv/bin/python -m pip install --quiet --disable-pip-version-check MedPy==0.5.2 scipy==1.16.3 SimpleITK==2.5.7 numpy==$version
  venv/bin/python -W ignore ask.py
done | tee seen
diff seen - <<'SEEN'
numpy 2.2.6: dc 1.0, jc 1.0, precision 0.0, recall 0.0
numpy 2.3.5: dc nan, jc 1.0, precision nan, recall nan
SEEN
