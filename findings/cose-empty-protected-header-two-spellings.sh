#!/usr/bin/env bash
# @auth0/cose 1.0.2 (npm) beside pycose 1.1.0 and cwt 3.3.0 (PyPI): an empty protected header written as a map of no entries.
#
# A good engineer would guess: what is signed are the protected bytes as they are in the message.
# What happens: not for the empty header. RFC 9052 has two spellings of it in a message, a byte string of no bytes (40) and one that holds
#   an empty map (41 a0); a reader takes both (section 3), and what is signed has no bytes in either case (section 4.4). pycose and cwt
#   do so. @auth0/cose signs and verifies the bytes of the message: of the same key and payload it refuses the second spelling.
# Why it matters here: COSE_Encrypt has an empty protected header with each AES key wrap, and writers differ in the spelling. We write 40, which
#   all three read, and read both since (`tests/formats/test_encryption.py`). Our signatures have a protected algorithm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q pycose==1.1.0 cwt==3.3.0 cbor2==5.9.0
npm init -y > npm.log
npm install --no-audit --no-fund --ignore-scripts @auth0/cose@1.0.2 >> npm.log 2>&1
cat > seen.py <<'PYTHON'
import json
import sys
from importlib.metadata import version

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cwt import COSE, COSEKey
from pycose.keys import EC2Key
from pycose.keys.curves import P256
from pycose.messages import CoseMessage

key = ec.generate_private_key(ec.SECP256R1())
x, y = (each.to_bytes(32) for each in (key.public_key().public_numbers().x, key.public_key().public_numbers().y))


def signed(spelling):
    """ES256 by RFC 9052, section 4.4: an empty protected header has no bytes in what is signed."""
    pair = decode_dss_signature(key.sign(cbor2.dumps(["Signature1", b"", b"", b"payload"]), ec.ECDSA(hashes.SHA256())))
    return cbor2.dumps(cbor2.CBORTag(18, [spelling, {1: -7}, b"payload", b"".join(each.to_bytes(32) for each in pair)]))


def by_pycose(message):
    decoded = CoseMessage.decode(message)
    decoded.key = EC2Key(crv=P256, x=x, y=y)
    return decoded.verify_signature()


def by_cwt(message):
    return COSE.new().decode(message, COSEKey.new({1: 2, 3: -7, -1: 1, -2: x, -3: y})) == b"payload"


messages = {"40": signed(b""), "41a0": signed(b"\xa0")}
found = {spelling: (by_pycose(message), by_cwt(message)) for spelling, message in messages.items()}
for spelling, (pycose, cwt) in found.items():
    print(f"{spelling}: pycose {version('pycose')} {pycose}, cwt {version('cwt')} {cwt}")
with open("messages.json", "w") as file:
    json.dump({"x": x.hex(), "y": y.hex(), **{spelling: message.hex() for spelling, message in messages.items()}}, file)
sys.exit(0 if all(all(each) for each in found.values()) else 1)
PYTHON
cat > seen.mjs <<'JAVASCRIPT'
import { createPublicKey } from "node:crypto";
import { readFileSync } from "node:fs";
import { Sign1 } from "@auth0/cose";

const { x, y, ...messages } = JSON.parse(readFileSync("messages.json"));
const word = (hex) => Buffer.from(hex, "hex").toString("base64url");
const key = createPublicKey({ key: { kty: "EC", crv: "P-256", x: word(x), y: word(y) }, format: "jwk" });
for (const spelling of ["40", "41a0"]) {
  let said = "true";
  try {
    await Sign1.decode(Buffer.from(messages[spelling], "hex")).verify(key);
  } catch (error) {
    said = error.message;
  }
  console.log(`${spelling}: @auth0/cose 1.0.2 ${said}`);
}
JAVASCRIPT
venv/bin/python seen.py
node seen.mjs | tee said
[ "$(cat said)" = "40: @auth0/cose 1.0.2 true
41a0: @auth0/cose 1.0.2 signature verification failed" ]
# Seen on two runs, with Node.js 20:
#   40: pycose 1.1.0 True, cwt 3.3.0 True
#   41a0: pycose 1.1.0 True, cwt 3.3.0 True
#   40: @auth0/cose 1.0.2 true
#   41a0: @auth0/cose 1.0.2 signature verification failed
