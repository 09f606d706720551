#!/usr/bin/env bash
# One host's worker, for schedulers and containers: `python -m search work` with its settings from the environment.
#
#   deploy/worker.sh polyp-kd --slots 4        any flag of `search work`; paths are relative to the repository
#
# Workers of several hosts need no rendezvous: start this on each, with the same database and a shared --runs.
# TERM, INT, USR1 or HUP asks for checkpoints; the trials are given back and this ends with 143 (130 for INT). Other exit
# codes: 0 nothing is left to do (or somebody ran `search stop`), 1 the ranks died more often than KD_RESTARTS,
# 2 a mistake that somebody has to mend, 3 max_failed.
#
#   KD_RANKS         ranks of this host: a number, or "gpu" for one a GPU (default)
#   KD_RESTARTS      how often ranks that died are started again (default 3)
#   KD_STOP_SECONDS  seconds from a signal until ranks that did not end are killed; they need less than 20 (default 100)
#   KD_PYTHON        the interpreter (default: that of .venv, else python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${KD_PYTHON:-}
if [[ -z $python ]]; then
  if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; else python=python3; fi
fi
exec "$python" -m search work "$@" \
  --ranks="${KD_RANKS:-gpu}" --restarts="${KD_RESTARTS:-3}" --stop-seconds="${KD_STOP_SECONDS:-100}"
