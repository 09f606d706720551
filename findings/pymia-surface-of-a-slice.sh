#!/usr/bin/env bash
# pymia 0.3.4: all that lies inside an object of a slice is its surface.
#
# Guess: the surface of an object in an image is its outline, so that an object that is drawn three pixels too large on all sides has a
# 95th percentile of the Hausdorff distance of about 3 and no overlap of surfaces within one pixel.
# Behaviour: an image is taken for a volume of one slice, whose two faces are surface as well: each inside pixel is a piece of surface
# on top and below, at distance 0 from the other mask's. The outline is a small part of it. So distances of images are smaller and
# overlaps of surfaces larger than those of other programs, and the more so the larger the object; a column of equal slices, whose faces
# are far apart, is measured as expected.
# Output seen:
#   side 20, as an image: HD95 3.00, surface overlap within 1 pixel 0.85
#   side 20, as a column of 200 slices: HD95 3.61, surface overlap within 1 pixel 0.05
#   side 80, as an image: HD95 2.00, surface overlap within 1 pixel 0.96
#   side 80, as a column of 200 slices: HD95 3.00, surface overlap within 1 pixel 0.17
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check pymia==0.3.4 numpy==2.2.6 scipy==1.17.1 simpleitk==2.5.7
cat > ask.py <<'PY'
import warnings

warnings.simplefilter("ignore")
import numpy as np
import SimpleITK as sitk
from pymia.evaluation import evaluator
from pymia.evaluation.metric import HausdorffDistance, SurfaceDiceOverlap

seen = []
for side in (20, 80):
    truth, drawn = np.zeros((2, 100, 100), np.uint8)
    truth[10 : 10 + side, 10 : 10 + side] = 1
    drawn[7 : 13 + side, 7 : 13 + side] = 1
    for name, column in (("an image", None), ("a column of 200 slices", 200)):
        masks = [mask if column is None else np.repeat(mask[None], column, axis=0) for mask in (drawn, truth)]
        judge = evaluator.SegmentationEvaluator([HausdorffDistance(percentile=95), SurfaceDiceOverlap(tolerance=1)], {1: "square"})
        judge.evaluate(*map(sitk.GetImageFromArray, masks), "s")
        values = {each.metric: float(each.value) for each in judge.results}
        seen.append([round(value, 2) for value in values.values()])
        print(f"side {side}, as {name}: HD95 {seen[-1][0]:.2f}, surface overlap within 1 pixel {seen[-1][1]:.2f}")
assert seen == [[3.0, 0.85], [3.61, 0.05], [2.0, 0.96], [3.0, 0.17]], seen
PY
venv/bin/python ask.py
