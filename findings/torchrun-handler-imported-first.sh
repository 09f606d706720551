#!/usr/bin/env bash
# torch 2.13.0: an out-of-tree rendezvous (entry point group `torchrun.handlers`) is lost where its module is imported first.
#
# Guess: torchrun knows a handler of an installed package under its name, whatever was imported before; one that cannot be
# loaded is an error.
# Behaviour: torch loads all entry points of the group while `torch.distributed.elastic.rendezvous` is being imported. A
# module that defines a handler has to import its base class from there. If that module is the first to be imported, its
# entry point is looked up while it is half imported: torch logs a warning, goes on, and the name is not registered,
# though importing in the other order registers it. The entry point has to lie in a module that imports torch.distributed late.
# Output seen:
#   torch first: registered
#   handler first: not registered
#   AttributeError: partially initialized module 'own_handler' has no attribute 'entry_point' (most likely due to a circular import)
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.2.6 setuptools==80.9.0
mkdir package
cat > package/pyproject.toml <<'TOML'
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "own-handler"
version = "0"
[project.entry-points."torchrun.handlers"]
own = "own_handler:entry_point"
[tool.setuptools]
py-modules = ["own_handler"]
TOML
cat > package/own_handler.py <<'PY'
from torch.distributed.elastic.rendezvous import RendezvousHandler


class Handler(RendezvousHandler):
    pass


def make(parameters):
    return Handler()


def entry_point():
    return make
PY
venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation ./package
cat > ask.py <<'PY'
import sys

if sys.argv[1] == "handler":
    import own_handler  # noqa: F401
from torch.distributed.elastic.rendezvous.api import rendezvous_handler_registry
import torch.distributed.elastic.rendezvous.registry  # noqa: F401

known = "own" in rendezvous_handler_registry._registry
print(f"{sys.argv[1]} first: " + ("registered" if known else "not registered"))
PY
torch_first=$(venv/bin/python ask.py torch 2>torch.log)
handler_first=$(venv/bin/python ask.py handler 2>handler.log)
printf '%s\n%s\n' "$torch_first" "$handler_first"
grep -o "AttributeError: partially initialized module.*" handler.log | sort -u
[[ $torch_first == "torch first: registered" && ! -s torch.log ]]
[[ $handler_first == "handler first: not registered" ]]
grep -q "Exception while registering out of tree plugin own" handler.log
