#!/usr/bin/env bash
# Optuna 5.0.0: SuccessiveHalvingPruner answers "prune", and asked again about the same report answers "do not".
#
# Guess: `should_prune` is a question: asked twice about a trial to which nothing was reported in between, it gives the
# same answer, so a worker that lost the answer, or another one that takes the trial over, may ask again.
# Behaviour: the pruner writes a system attribute (completed_rung_k) before it compares, and begins with the rungs that
# have none. The second question finds the rung done, so the trial is not judged and goes on. MedianPruner, which writes
# nothing, says the same both times.
# Output seen:
#   halving: [True, False, False]
#   median: [True, True, True]
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check optuna==5.0.0
cat > ask.py <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def answers(pruner):
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for value in (0.9, 0.8, 0.7):
        trial = study.ask()
        for step in (1, 2):
            trial.report(value, step)
            trial.should_prune()
        study.tell(trial, value)
    worst = study.ask()
    worst.report(0.1, 1)
    return [bool(worst.should_prune()) for _ in range(3)]


print("halving:", answers(optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)))
print("median:", answers(optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0)))
PY
venv/bin/python ask.py | tee seen
diff seen - <<'SEEN'
halving: [True, False, False]
median: [True, True, True]
SEEN
