#!/usr/bin/env bash
# in-toto-attestation 0.9.3 (PyPI, with protobuf 7.36.2): a statement's predicate that goes through the library has other numbers afterwards.
#
# A good engineer would guess: an attestation is JSON that is carried, checked and passed on. The library that models it may put keys in
#   another order, and keeps the values: what is read, changed in one field and signed again says the same in the others.
# What happens: the predicate is a protobuf Struct, which knows one kind of number, the double. Each whole number becomes a float, 1 is
#   written as 1.0, and above 2^53 it is another number: a build that began at 1764460000123456789 ns began 21 ns earlier. `validate`
#   finds nothing. Python's own json keeps them. Known of protobuf (issue 10669); nothing in this library says it.
# Why it matters here: provenance of modules has numbers of runs, times and seeds. A verifier that wants an integer refuses 1.0, and one that
#   looks a run up by its number finds another. What `ota` takes of statements are texts, read from the bytes that were signed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q in-toto-attestation==0.9.3 protobuf==7.36.2
cat > seen.py <<'PYTHON'
import json
import sys
from importlib.metadata import version

from google.protobuf import json_format
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement

predicate = {"attempt": 1, "began_ns": 1764460000123456789, "seed": 9007199254740993}
subject = ResourceDescriptor(name="blink.wasm", digest={"sha256": "00" * 32})
statement = Statement([subject.pb], "https://slsa.dev/provenance/v1", predicate)
statement.validate()
written = json_format.MessageToJson(statement.pb, indent=None)
again = json.loads(written)["predicate"]
print(f"in-toto-attestation {version('in-toto-attestation')}, protobuf {version('protobuf')}")
print(f"given:   {json.dumps(predicate)}")
print(f"written: {json.dumps(dict(sorted(again.items())))}")
print(f"off by:  {({name: predicate[name] - int(again[name]) for name in predicate})}")
expected = {"attempt": 1.0, "began_ns": 1.7644600001234568e18, "seed": 9007199254740992.0}
sys.exit(0 if again == expected and all(type(each) is float for each in again.values()) else 1)
PYTHON
venv/bin/python seen.py
# Seen on two runs:
#   given:   {"attempt": 1, "began_ns": 1764460000123456789, "seed": 9007199254740993}
#   written: {"attempt": 1.0, "began_ns": 1.7644600001234568e+18, "seed": 9007199254740992.0}
#   off by:  {'attempt': 0, 'began_ns': 21, 'seed': 1}
