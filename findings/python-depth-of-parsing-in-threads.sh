#!/usr/bin/env bash
# CPython 3.11.7 with numpy 2.2.6: numpy.load of a sound array file raises SystemError where several threads load at once.
#
# Guess: threads may call `numpy.load` on files of their own, or on one, side by side: nothing is written, and the header
# of an .npy file is a short text whose parsing by `ast.literal_eval` shares nothing with other threads.
# Behaviour: CPython 3.11 counts how deep the tree is that it hands to Python, in one place for all threads. Where another
# thread runs in the middle of that, which a finalizer that the garbage collector calls is enough for, the count
# does not come out and "AST constructor recursion depth mismatch" is raised. With the default switch interval that is one
# load in many thousands under load; here threads switch and garbage is collected as often as possible. 3.10, 3.12 and
# 3.13 do not count so (tried: none in a hundred thousand).
# Output seen (Python 3.11.7):
#   SystemError: AST constructor recursion depth mismatch
set -euo pipefail
python3 -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "this is of Python 3.11 alone"; exit 3; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check numpy==2.2.6
cat > ask.py <<'PY'
import gc
import sys
import threading
import time

import numpy


class Cycle:
    """Garbage whose finalizer runs some lines of Python."""

    def __init__(self):
        self.itself = self

    def __del__(self):
        for _ in range(3):
            pass


def read():
    while time.monotonic() < end and not seen:
        Cycle()
        try:
            numpy.load("array.npy")
        except SystemError as error:
            seen.append(f"{type(error).__name__}: {str(error).split(' (')[0]}")


numpy.save("array.npy", numpy.zeros((1, 18, 16, 12), numpy.float32))
sys.setswitchinterval(1e-6)
gc.set_threshold(5)
seen, end = [], time.monotonic() + 60
threads = [threading.Thread(target=read) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(seen[0] if seen else "no error")
PY
venv/bin/python ask.py | tee seen
diff seen - <<'SEEN'
SystemError: AST constructor recursion depth mismatch
SEEN
