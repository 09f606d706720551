#!/usr/bin/env bash
# torch 2.13.0: making an optimizer imports torch's compiler, though nothing is compiled; calling its kernel does not.
#
# Guess: `torch.optim.SGD([weight], lr=0.1)` allocates a few dictionaries; the compiler (torch._dynamo and what hangs on it)
# is imported by whoever calls torch.compile.
# Behaviour: methods of Optimizer, `add_param_group` among them, are wrapped so that the compiler leaves them alone, and the
# wrapper imports the compiler at its first call: more than 700 modules, as many again as torch itself had loaded, and one to
# two seconds of CPU time in every process that trains. The fused kernel that the optimizer calls needs none of it and gives
# the same bits.
# Output seen:
#   after import torch: torch._dynamo False
#   after a step of the kernel: torch._dynamo False
#   after torch.optim.SGD: torch._dynamo True, more than 700 further modules: True
#   equal bits: True
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat > ask.py <<'PY'
import sys

import torch

loaded = lambda: "torch._dynamo" in sys.modules
print("after import torch: torch._dynamo", loaded())
start, gradient = torch.linspace(-1, 1, 7), torch.linspace(0.5, 2, 7)
kernel = start.clone()
torch._fused_sgd_(
    [kernel], [gradient], [], lr=0.1, momentum=0.0, weight_decay=0.01, dampening=0.0, nesterov=False, maximize=False,
    is_first_step=False,
)
print("after a step of the kernel: torch._dynamo", loaded())
before = len(sys.modules)
weight = start.clone().requires_grad_()
optimizer = torch.optim.SGD([weight], lr=0.1, weight_decay=0.01, fused=True)
print(
    f"after torch.optim.SGD: torch._dynamo {loaded()}, more than 700 further modules: {len(sys.modules) - before > 700}"
)
weight.grad = gradient.clone()
optimizer.step()
print("equal bits:", torch.equal(weight.detach(), kernel))
PY
venv/bin/python -W ignore ask.py | tee seen
diff seen - <<'SEEN'
after import torch: torch._dynamo False
after a step of the kernel: torch._dynamo False
after torch.optim.SGD: torch._dynamo True, more than 700 further modules: True
equal bits: True
SEEN
