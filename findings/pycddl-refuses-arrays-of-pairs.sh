#!/usr/bin/env bash
# pycddl 0.6.4 (PyPI, the Rust crate cddl): an array that repeats a pair, as SUIT's command sequences do, is refused.
#
# A good engineer would guess: a CDDL validator that knows groups, generics, sockets and `.cbor` reads the array of RFC 8610's first pages, and
#   says "valid" of what is.
# What happens: `[int, tstr]` fits a number and a text. `[* (int, tstr)]` does not fit them, nor `[* int, tstr]` two numbers and a text;
#   `number` is no float, and a group that is optional in a map is asked for. cddl-verifier takes all of them, and refuses what
#   really does not fit.
# Why it matters here: a SUIT manifest is mostly such arrays (command and argument in turn), so this validator refuses each real one. Our schema
#   (`docs/reference/documents.cddl`) is checked with cddl-verifier; that another validator refuses a document means little.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q pycddl==0.6.4 cddl-verifier==1.5.3 cbor2==5.9.0
venv/bin/python - <<'PYTHON'
import logging
import sys
from importlib.metadata import version

import cbor2
import pycddl
from cddl_verifier import Validator

logging.disable()
VALID = [
    ("seen = [int, tstr]", [1, "a"], True),
    ("seen = [* (int, tstr)]", [1, "a"], False),
    ("seen = [* (int, tstr)]", [1, "a", 2, "b"], False),
    ("seen = [* int, tstr]", [1, 2, "a"], False),
    ("seen = number", 1.5, False),
    ("seen = {? (1 => int, 2 => int)}", {1: 1, 2: 2}, True),
    ("seen = {? (1 => int, 2 => int)}", {}, False),
]


def by_pycddl(schema, data):
    try:
        pycddl.Schema(schema).validate_cbor(data)
    except pycddl.ValidationError:
        return False
    return True


print(f"pycddl {version('pycddl')}, cddl-verifier {version('cddl-verifier')}")
good = not Validator("seen = [* (int, tstr)]").validate(cbor2.dumps([1, "a", 2]), "seen").valid
for schema, value, expected in VALID:
    data = cbor2.dumps(value)
    one, other = by_pycddl(schema, data), Validator(schema).validate(data, "seen").valid
    print(f"{schema.removeprefix('seen = ')} and {value}: pycddl {one}, cddl-verifier {other}")
    good = good and one is expected and other
sys.exit(0 if good else 1)
PYTHON
# Seen on two runs:
#   pycddl 0.6.4, cddl-verifier 1.5.3
#   [int, tstr] and [1, 'a']: pycddl True, cddl-verifier True
#   [* (int, tstr)] and [1, 'a']: pycddl False, cddl-verifier True
#   [* (int, tstr)] and [1, 'a', 2, 'b']: pycddl False, cddl-verifier True
#   [* int, tstr] and [1, 2, 'a']: pycddl False, cddl-verifier True
#   number and 1.5: pycddl False, cddl-verifier True
#   {? (1 => int, 2 => int)} and {1: 1, 2: 2}: pycddl True, cddl-verifier True
#   {? (1 => int, 2 => int)} and {}: pycddl False, cddl-verifier True
