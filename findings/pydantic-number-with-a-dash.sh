#!/usr/bin/env bash
# pydantic 2.14.3: the text "0-19" is the integer -19.
#
# Guess: a text that is no integer literal is refused, so that `int | str`, tried from left to right, leaves a range such
# as "0-19" a text.
# Behaviour: leading zeros are stripped before the sign is read, so "0-19", "00-19" and "000-1.0" become -19, -19 and -1,
# while "1-9", "0+19" and "-0-19" are refused. Python's own int() refuses them all. A field that takes a number or a
# range as text changes a range that begins at 0, without an error; strict integers (StrictInt) leave it a text.
# Output seen:
#   0-19 -> -19
#   00-19 -> -19
#   000-1.0 -> -1
#   1-9 -> refused
#   0+19 -> refused
#   -0-19 -> refused
#   int | str, left to right, of '0-19' -> -19
#   StrictInt | str of '0-19' -> '0-19'
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check pydantic==2.14.3
cat > read.py <<'PY'
from typing import Annotated

from pydantic import Field, StrictInt, TypeAdapter, ValidationError


def read(kind, text):
    try:
        return TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return "refused"


for text in ("0-19", "00-19", "000-1.0", "1-9", "0+19", "-0-19"):
    print(text, "->", read(int, text))
either = Annotated[int | str, Field(union_mode="left_to_right")]
print("int | str, left to right, of '0-19' ->", repr(read(either, "0-19")))
print("StrictInt | str of '0-19' ->", repr(read(StrictInt | str, "0-19")))
PY
venv/bin/python read.py | tee seen
diff seen - <<'SEEN'
0-19 -> -19
00-19 -> -19
000-1.0 -> -1
1-9 -> refused
0+19 -> refused
-0-19 -> refused
int | str, left to right, of '0-19' -> -19
StrictInt | str of '0-19' -> '0-19'
SEEN
