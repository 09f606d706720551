#!/usr/bin/env bash
# panoptica 2.1.7: two lesions of a slice are one lesion of the same slice as a volume.
#
# Guess: the connected components that stand for instances have one rule for neighbours, by faces or by corners too, so that a mask
# (height, width) has as many instances as the same mask (1, height, width).
# Behaviour: left to itself the approximator takes scipy for two axes, where pixels that touch at a corner are two objects, and cc3d for
# three, where they are one. A thin diagonal lesion of six pixels is six instances as a slice and one as a volume, and one that a network
# draws a pixel wider is missed as a slice, with nothing of it recognised, and found as a volume. Recognition and panoptic quality of
# images and of volumes are so counted by different rules unless the backend is named.
# Output seen:
#   as a slice: true lesions 6, recognised 0, recognition quality 0.00
#   as a volume: true lesions 1, recognised 1, recognition quality 1.00
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check panoptica==2.1.7 numpy==2.2.6
cat > ask.py <<'PY'
import numpy as np
from panoptica import (
    ConnectedComponentsInstanceApproximator,
    InputType,
    NaiveThresholdMatching,
    Panoptica_Evaluator,
    disable_citation_reminder,
)

disable_citation_reminder()
truth = np.zeros((20, 20), np.uint8)
at = np.arange(6)
truth[5 + at, 5 + at] = 1
drawn = truth.copy()
drawn[5 + at[1:], 4 + at[1:]] = 1

seen = []
for name, shape in (("slice", (20, 20)), ("volume", (1, 20, 20))):
    judge = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(),
    )
    result = next(iter(judge.evaluate(drawn.reshape(shape), truth.reshape(shape), verbose=False).values()))
    seen.append((result.tp + result.fn, result.tp, round(result.rq, 2)))
    print(f"as a {name}: true lesions {seen[-1][0]}, recognised {seen[-1][1]}, recognition quality {seen[-1][2]:.2f}")
assert seen == [(6, 0, 0.0), (1, 1, 1.0)], seen
PY
venv/bin/python ask.py 2>&1 | grep "^as a\|Error"
