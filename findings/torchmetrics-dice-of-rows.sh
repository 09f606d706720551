#!/usr/bin/env bash
# torchmetrics 1.7.4, 1.9.0: DiceScore takes maps of labels for one-hot, rows for classes, without a word; and which number
# comes out depends on the version.
#
# Guess: DiceScore(num_classes=2, average="macro") asked about labels (N, height, width) says that it wants one-hot masks
# or input_format="index", or takes them as labels; with a good prediction the value is near the F1 of the pixels, 0.95.
# Behaviour: the second axis is taken for the classes, though it has 50 entries and num_classes is 2. So the score is the mean
# over rows of the Dice of the row. Up to 1.7 a row without object counts as 0: an object that fills 20 of 50 rows scores
# 0.38 at the most where its F1 is 0.95. From 1.8 on such rows are left out, and it is 0.95. Published tables have the former.
# Output seen:
#   torchmetrics 1.7.4: labels as they come 0.38, as index 0.97, F1 0.95
#   torchmetrics 1.9.0: labels as they come 0.95, as index 0.97, F1 0.95
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
cat > ask.py <<'PY'
import torch
import torchmetrics
from torchmetrics.functional.classification import binary_f1_score
from torchmetrics.segmentation import DiceScore

truth, predicted = torch.zeros(1, 50, 50, dtype=torch.long), torch.zeros(1, 50, 50, dtype=torch.long)
truth[0, 10:30, 10:30] = 1
predicted[0, 10:30, 11:31] = 1
plain = DiceScore(num_classes=2, average="macro")(predicted, truth)
index = DiceScore(num_classes=2, average="macro", input_format="index")(predicted, truth)
f1 = binary_f1_score(predicted, truth)
print(f"torchmetrics {torchmetrics.__version__}: labels as they come {plain:.2f}, as index {index:.2f}, F1 {f1:.2f}")
PY
for version in 1.7.4 1.9.0; do
  venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 torchmetrics==$version
  venv/bin/python -W ignore ask.py
done | tee seen
diff seen - <<'SEEN'
torchmetrics 1.7.4: labels as they come 0.38, as index 0.97, F1 0.95
torchmetrics 1.9.0: labels as they come 0.95, as index 0.97, F1 0.95
SEEN
