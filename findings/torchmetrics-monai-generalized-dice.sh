#!/usr/bin/env bash
# torchmetrics 1.9.0, MONAI 1.6.1: the generalized Dice of a right answer "no object here" is 0 in one and 1 in the other.
#
# Guess: both count a case whose truth and prediction have no object as right (1) or leave it out (nan), since both have a rule
# for classes that are absent, and one formula (Sudre et al. 2017) is named by both.
# Behaviour: without the background torchmetrics weights the absent classes by 0, so that such a case is 0 divided by a guarded
# 0, which is 0, and the mean over cases sinks; MONAI says 1. Of two cases, one found to the pixel and one rightly empty, the
# mean is 0.5 and 1.0. With the background both say 1.
# Output seen:
#   torchmetrics: foreground 0.5, with background 1.0
#   MONAI: foreground 1.0, with background 1.0
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0 monai==1.6.1
cat > ask.py <<'PY'
import torch
from monai.metrics import compute_generalized_dice
from torch.nn.functional import one_hot
from torchmetrics.segmentation import GeneralizedDiceScore

labels = torch.zeros(2, 8, 8, dtype=torch.long)
labels[0, 2:6, 2:6] = 1
masks = one_hot(labels, 3).movedim(-1, 1)


def torchmetrics(background):
    return float(GeneralizedDiceScore(3, include_background=background)(masks, masks))


def monai(background):
    return float(compute_generalized_dice(masks.float(), masks.float(), include_background=background).mean())


for name, score in (("torchmetrics", torchmetrics), ("MONAI", monai)):
    print(f"{name}: foreground {score(False):.1f}, with background {score(True):.1f}")
PY
venv/bin/python -W ignore ask.py 2>/dev/null | tee seen
diff seen - <<'SEEN'
torchmetrics: foreground 0.5, with background 1.0
MONAI: foreground 1.0, with background 1.0
SEEN
