#!/usr/bin/env bash
# statsmodels 0.15.0: one unknown p takes all p of a correction along, or counts as a test, as the method wants it.
#
# Guess: `multipletests` leaves a p that is nan as nan and corrects the known ones among themselves, or it refuses the list.
# Behaviour: Holm and Bonferroni count the unknown one as a further test, so that each known p becomes larger than it is among three; by
# Benjamini and Hochberg all corrected p are nan, the known ones too, while the verdicts beside them still say that the first is rejected.
# So a table of corrected p loses a row's number, or all of them, to a comparison that could not be made, without a word.
# Output seen:
#   holm: 0.030 0.060 0.060 among the known ones; with an unknown one 0.040 nan 0.090 0.090, rejected 1 0 0 0
#   bonferroni: 0.030 0.120 0.090 among the known ones; with an unknown one 0.040 nan 0.160 0.120, rejected 1 0 0 0
#   fdr_bh: 0.030 0.040 0.040 among the known ones; with an unknown one nan nan nan nan, rejected 1 0 0 0
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check statsmodels==0.15.0 numpy==2.2.6 scipy==1.17.1 pandas==2.3.3
cat > ask.py <<'PY'
import warnings

warnings.simplefilter("ignore")
import numpy as np
from statsmodels.stats.multitest import multipletests

known, unknown = [0.01, 0.04, 0.03], [0.01, np.nan, 0.04, 0.03]
seen = []
for method in ("holm", "bonferroni", "fdr_bh"):
    among = multipletests(known, method=method)[1]
    rejected, corrected, *_ = multipletests(unknown, method=method)
    texts = [" ".join(f"{p:.3f}" for p in each) for each in (among, corrected)]
    seen.append((*texts, " ".join(str(int(each)) for each in rejected)))
    print(f"{method}: {texts[0]} among the known ones; with an unknown one {texts[1]}, rejected {seen[-1][2]}")
assert seen == [
    ("0.030 0.060 0.060", "0.040 nan 0.090 0.090", "1 0 0 0"),
    ("0.030 0.120 0.090", "0.040 nan 0.160 0.120", "1 0 0 0"),
    ("0.030 0.040 0.040", "nan nan nan nan", "1 0 0 0"),
], seen
PY
venv/bin/python ask.py
