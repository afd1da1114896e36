#!/usr/bin/env bash
# python-tuf 7.0.1 (PyPI) signs what go-tuf 2.4.2 (Go) and @tufjs/models 4.1.1 (npm) refuse: metadata with a field of a large number.
#
# A good engineer would guess: a signature is checked over the bytes that arrived. TUF says of fields that a client does not know: it "must
#   include the data when calculating hashes or verifying signatures" (specification, section "Document formats"), so they do no harm.
# What happens: all three check what they write again from what they have read. python-tuf writes the same number. The other two read
#   numbers as doubles, and above 2^53 write another one: "not enough signatures", as if the key were wrong. 2^53 passes, 2^53 + 1 does
#   not. In a target's `custom` go-tuf keeps the number, and @tufjs/models does not.
# Why it matters here: who publishes modules by TUF beside us puts in when they were built, in nanoseconds, or a serial number, and tries it
#   with the Python client. Devices in Go or JavaScript then refuse the whole role, and nothing says why. Such numbers belong in texts. Our
#   documents are CBOR, with whole numbers of 64 bits, and are verified as the bytes that arrived.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q tuf==7.0.1 securesystemslib==1.6.0 cryptography==50.0.1
npm init -y > npm.log
npm install --no-audit --no-fund --ignore-scripts @tufjs/models@4.1.1 >> npm.log 2>&1
export GOPATH=$folder/go GOFLAGS='-modcacherw -mod=mod'
go mod init seen 2> /dev/null
go get github.com/theupdateframework/go-tuf/v2@v2.4.2 2> /dev/null
cat > seen.py <<'PYTHON'
"""Writes a root and targets of four kinds, signed, and checks them."""

from datetime import UTC, datetime

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

signer = CryptoSigner.generate_ed25519()
expires = datetime(2100, 1, 1, tzinfo=UTC)
root = Root(expires=expires)
root.add_key(signer.public_key, "targets")
Metadata(root).to_file("root.json")
for name, number, custom in (("exact", 2**53, False), ("field", 2**53 + 1, False), ("custom", 2**53 + 1, True)):
    module = TargetFile.from_data("blink.wasm", b"blink")
    targets = Targets(expires=expires, targets={module.path: module})
    (module if custom else targets).unrecognized_fields.update({"custom": {"built": number}} if custom else {"built": number})
    signed = Metadata(targets)
    signed.sign(signer)
    signed.to_file(f"{name}.json")
    Metadata.from_file("root.json").signed.verify_delegate("targets", Metadata.from_file(f"{name}.json").signed_bytes, signed.signatures)
    print(f"python-tuf {name}: verified")
PYTHON
cat > main.go <<'GO'
package main

import (
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

func main() {
	root, err := metadata.Root().FromFile("root.json")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"exact", "field", "custom"} {
		targets, err := metadata.Targets().FromFile(name + ".json")
		if err != nil {
			panic(err)
		}
		said := "verified"
		if err := root.VerifyDelegate("targets", targets); err != nil {
			said = err.Error()
		}
		fmt.Printf("go-tuf %s: %s\n", name, said)
	}
}
GO
cat > seen.mjs <<'JAVASCRIPT'
import { readFileSync } from "node:fs";
import { Metadata, MetadataKind } from "@tufjs/models";

const read = (kind, name) => Metadata.fromJSON(kind, JSON.parse(readFileSync(`${name}.json`, "utf8")));
for (const name of ["exact", "field", "custom"]) {
  let said = "verified";
  try {
    read(MetadataKind.Root, "root").verifyDelegate("targets", read(MetadataKind.Targets, name));
  } catch (error) {
    said = error.message;
  }
  console.log(`@tufjs/models ${name}: ${said}`);
}
JAVASCRIPT
go build -o seen 2> go.log || { cat go.log; exit 1; }
echo "versions: $(venv/bin/pip freeze | grep '^tuf=='), $(go list -m github.com/theupdateframework/go-tuf/v2), $(npm ls --parseable --long \
  @tufjs/models | sed -n 's/.*\(@tufjs.models@[0-9.]*\).*/\1/p')"
{ venv/bin/python seen.py; ./seen; node seen.mjs; } | tee said
diff said - <<'EXPECTED'
python-tuf exact: verified
python-tuf field: verified
python-tuf custom: verified
go-tuf exact: verified
go-tuf field: unsigned metadata error: Verifying targets failed, not enough signatures, got 0, want 1
go-tuf custom: verified
@tufjs/models exact: verified
@tufjs/models field: targets was signed by 0/1 keys
@tufjs/models custom: targets was signed by 0/1 keys
EXPECTED
# Seen on two runs: the nine lines above.
