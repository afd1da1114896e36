#!/usr/bin/env bash
# cbor-x 1.6.9, cbor 10.0.12, cbor2 2.3.0 and cborg 6.1.5 (npm): whether a signature is written as bytes depends on library and kind of array.
#
# A good engineer would guess: JavaScript has one kind of bytes. A Buffer *is* a Uint8Array, so both become a byte string (major type 2), as a
#   COSE signature, a digest and a payload have to be.
# What happens: Uint8Array, which WebCrypto gives, becomes a byte string with tag 64 (RFC 8746) in cbor-x and cbor, and a plain one in cbor2
#   and cborg. Buffer, which node:crypto gives, is plain in cbor-x, cbor and cborg; cbor2 writes a map with "type" and "data", an
#   array of numbers. There is one kind of array that is right in each library, and not the same one. Known of cbor2 (issues
#   56 and 106: an encoder is to be registered); cbor-x has an option, `tagUint8Array`.
# Why it matters here: a service in JavaScript that signs a document for boards passes its own tests, since each library reads what it wrote.
#   Boards refuse the signature, as cddl-verifier does here. cborg alone needs no care.
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

const libraries = { "cbor-x": cborX.encode, cbor: cbor.encode, cbor2: cbor2.encode, cborg: cborg.encode };
const kinds = { Uint8Array: new Uint8Array([1, 2, 3]), Buffer: Buffer.from([1, 2, 3]) };
for (const [library, encode] of Object.entries(libraries)) {
  for (const [kind, bytes] of Object.entries(kinds)) console.log(library, kind, Buffer.from(encode(bytes)).toString("hex"));
}
JAVASCRIPT
npm ls --depth=0 | tail -n +2  # the versions
node seen.mjs > written
cat > seen.py <<'PYTHON'
import logging
import sys

from cddl_verifier import Validator

logging.disable()
schema = Validator("signature = bstr")
found = {}
with open("written") as file:
    for line in file:
        library, kind, written = line.split()
        found[library, kind] = schema.validate(bytes.fromhex(written), "signature").valid
        print(f"{library} {kind}: {written}: a byte string {found[library, kind]}")
wrong = [each for each, right in found.items() if not right]
sys.exit(0 if len(found) == 8 and wrong == [("cbor-x", "Uint8Array"), ("cbor", "Uint8Array"), ("cbor2", "Buffer")] else 1)
PYTHON
venv/bin/python seen.py
# Seen on two runs:
#   cbor-x Uint8Array: d84043010203: a byte string False
#   cbor-x Buffer: 43010203: a byte string True
#   cbor Uint8Array: d84043010203: a byte string False
#   cbor Buffer: 43010203: a byte string True
#   cbor2 Uint8Array: 43010203: a byte string True
#   cbor2 Buffer: a2647479706566427566666572646461746183010203: a byte string False
#   cborg, both: 43010203: a byte string True
