#!/usr/bin/env bash
# Optuna 5.0.0: HyperbandPruner makes one bracket too few where the run's length is a power of the reduction factor.
#
# Guess: with min_resource 1 and reduction 3 a run of 3^k steps has k + 1 brackets (Li et al. 2018, algorithm 1:
# s_max = floor(log_eta R)), so 243 steps have 6, and 244 steps as many.
# Behaviour: the number comes from a quotient of natural logarithms, math.log(243, 3) = 4.999999999999999, whose floor is
# 4: 5 brackets. The one that is lost is the most patient, which never prunes before the end. 81, 244 and 729 steps come
# out as one would think; 1000 by 10 do not (2.9999999999999996).
# Output seen:
#   81 by 3: 5 brackets, exact 5
#   243 by 3: 5 brackets, exact 6
#   244 by 3: 6 brackets, exact 6
#   729 by 3: 7 brackets, exact 7
#   1000 by 10: 3 brackets, exact 4
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check optuna==5.0.0
cat > ask.py <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def brackets(steps, reduction):
    """How many there are, from the first question on."""
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=steps, reduction_factor=reduction)
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    trial.report(1.0, 1)
    trial.should_prune()
    return pruner._n_brackets


def exact(steps, reduction):
    count = 0
    while reduction**count <= steps:
        count += 1
    return count


for steps, reduction in ((81, 3), (243, 3), (244, 3), (729, 3), (1000, 10)):
    print(f"{steps} by {reduction}: {brackets(steps, reduction)} brackets, exact {exact(steps, reduction)}")
PY
venv/bin/python ask.py | tee seen
diff seen - <<'SEEN'
81 by 3: 5 brackets, exact 5
243 by 3: 5 brackets, exact 6
244 by 3: 6 brackets, exact 6
729 by 3: 7 brackets, exact 7
1000 by 10: 3 brackets, exact 4
SEEN
