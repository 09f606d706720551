#!/usr/bin/env bash
# One host's worker: torchrun over the GPUs of this host, with a stop that gives the trials back.
#
#   deploy/worker.sh --study polyp-kd --slots 4        any flag of search/worker.py; paths are relative to the repository
#
# Workers of several hosts need no rendezvous: start this on each, with the same database and a shared --runs.
# TERM, INT or USR1 asks for checkpoints; the trials are given back and this ends with 143. Other exit codes are
# torchrun's: 0 nothing is left to do (or somebody ran `search stop`), 1 the ranks failed more often than KD_RESTARTS.
#
#   KD_RANKS         ranks of this host: a number, or "gpu" for one a GPU (default)
#   KD_RESTARTS      how often failed ranks are started again (default 3)
#   KD_STOP_SECONDS  seconds for checkpoints after a stop, before the ranks are killed (default 100)
#   KD_PYTHON        the interpreter (default: that of .venv, else python3)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${KD_PYTHON:-}
if [[ -z $python ]]; then
  if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; else python=python3; fi
fi
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${KD_STOP_SECONDS:-100}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # what torchrun would set too, with a warning

# Schedulers send USR1 to every process. The ranks obey it; torchrun would die of it, so it starts with USR1 ignored.
(
  trap '' USR1
  exec "$python" -m torch.distributed.run --standalone --nproc-per-node="${KD_RANKS:-gpu}" \
    --max-restarts="${KD_RESTARTS:-3}" search/worker.py "$@"
) &
agent=$!

# torchrun passes TERM on to its ranks; it may have ended meanwhile.
asked=
trap 'asked=1; kill -TERM "$agent" 2>/dev/null || true' TERM INT USR1

while true; do
  code=0
  wait "$agent" || code=$?
  kill -0 "$agent" 2>/dev/null || break # otherwise a signal has interrupted the waiting
done
if [[ -n $asked && $code -ne 0 ]]; then code=143; fi
exit "$code"
