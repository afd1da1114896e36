#!/usr/bin/env bash
# cbor-x 1.6.9 (npm): a whole number above 32 bits is written as a float, and read as a BigInt where somebody else wrote it.
#
# A good engineer would guess: a CBOR library writes whole numbers as integers as long as JavaScript holds them exactly, up to 2^53, and reads
#   them as numbers up to there: cbor, cbor2 and cborg do.
# What happens: from 2^32 on cbor-x writes fb and eight bytes, so a time in milliseconds is a float; in seconds it is an integer. Reading
#   the integer that others write gives a BigInt, which throws as soon as it meets a number. So a field changes its type when a service
#   reads and writes it again. A BigInt is written as an integer. Known upstream (issue 56, 2022): numbers are so by design.
# Why it matters here: sequence numbers of manifests are often times in milliseconds, and a SUIT manifest asks for `uint`: what is written so
#   is refused by cddl-verifier, by boards, and by other implementations. `BigInt(value)` for each number in a document helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q cddl-verifier==1.5.3
npm init -y > npm.log
npm install --no-audit --no-fund --ignore-scripts cbor-x@1.6.9 cbor@10.0.12 cbor2@2.3.0 cborg@6.1.5 >> npm.log 2>&1
cat > seen.mjs <<'JAVASCRIPT'
import cbor from "cbor";
import * as cborX from "cbor-x";
import * as cbor2 from "cbor2";
import * as cborg from "cborg";

const milliseconds = 1764460000000;
const integer = Buffer.from("1b0000019ad202f300", "hex");
const libraries = { "cbor-x": cborX, cbor, cbor2, cborg };
for (const [library, { encode, decode }] of Object.entries(libraries)) {
  console.log(library, Buffer.from(encode(milliseconds)).toString("hex"), typeof decode(integer));
}
console.log("cbor-x-of-a-BigInt", Buffer.from(cborX.encode(BigInt(milliseconds))).toString("hex"), "-");
console.log("cbor-x-of-2^32-1", Buffer.from(cborX.encode(4294967295)).toString("hex"), "-");
console.log("cbor-x-of-2^32", Buffer.from(cborX.encode(4294967296)).toString("hex"), "-");
JAVASCRIPT
npm ls --depth=0 | tail -n +2  # the versions
node seen.mjs > written
cat > seen.py <<'PYTHON'
import logging
import sys

from cddl_verifier import Validator

logging.disable()
schema = Validator("suit-manifest-sequence-number = uint")
found = {}
with open("written") as file:
    for line in file:
        library, written, kind = line.split()
        found[library] = (schema.validate(bytes.fromhex(written), "suit-manifest-sequence-number").valid, kind)
        print(f"{library}: {written}: a uint {found[library][0]}, read from an integer: {kind}")
expected = {"cbor-x": (False, "bigint"), "cbor": (True, "number"), "cbor2": (True, "number"), "cborg": (True, "number")}
expected |= {"cbor-x-of-a-BigInt": (True, "-"), "cbor-x-of-2^32-1": (True, "-"), "cbor-x-of-2^32": (False, "-")}
sys.exit(0 if found == expected else 1)
PYTHON
venv/bin/python seen.py
# Seen on two runs:
#   cbor-x: fb4279ad202f300000: a uint False, read from an integer: bigint
#   cbor, cbor2, cborg: 1b0000019ad202f300: a uint True, read from an integer: number
#   cbor-x-of-a-BigInt: 1b0000019ad202f300: a uint True
#   cbor-x-of-2^32-1: 1affffffff: a uint True
#   cbor-x-of-2^32: fb41f0000000000000: a uint False
