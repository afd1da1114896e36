#!/usr/bin/env bash
# cyclonedx-python-lib 11.12.0 (PyPI) beside cyclonedx-go 0.12.0 (Go): a bill of materials that says it is incomplete no longer says so.
#
# A good engineer would guess: the library of the standard's own project, told the version that a document has, keeps what the document says
#   through reading and writing, or refuses what it does not know. So a tool may read a bill, add its component, and write it.
# What happens: of a valid document of version 1.6 that both take without a word, Python's library drops `compositions`, `annotations`,
#   `formulation`, `declarations`, and of a dependency `provides`. The document that it writes is valid, too. cyclonedx-go keeps all of them.
#   Comments in the library's source list what is missing; support for compositions is an open pull request since 2024 (607).
# Why it matters here: `compositions` is where a bill of firmware says that what is in the C library, or in a vendor's blob, is not known. A
#   step in Python that merges bills of modules turns "incomplete" into nothing, which readers take for all there is; `provides` says
#   which component holds the cryptography, `annotations` who reviewed. What `ota` is given by `--sbom` it carries as the same bytes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q 'cyclonedx-python-lib[json-validation]==11.12.0'
export GOPATH=$folder/go GOFLAGS='-modcacherw -mod=mod'
go mod init seen 2> /dev/null
go get github.com/CycloneDX/cyclonedx-go@v0.12.0 2> /dev/null
cat > bill.json <<'JSON'
{"$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json", "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
 "metadata": {"component": {"type": "firmware", "bom-ref": "pump", "name": "pump", "version": "1.0.0"}},
 "components": [{"type": "library", "bom-ref": "libc", "name": "libc", "version": "1"},
  {"type": "library", "bom-ref": "aes", "name": "aes", "version": "2"}],
 "dependencies": [{"ref": "pump", "dependsOn": ["libc"], "provides": ["aes"]}],
 "compositions": [{"aggregate": "incomplete", "assemblies": ["libc"]}],
 "annotations": [{"subjects": ["libc"], "annotator": {"individual": {"name": "Ada"}}, "timestamp": "2026-11-30T10:00:00Z", "text": "read"}],
 "formulation": [{"bom-ref": "built", "components": [{"type": "application", "name": "rustc", "version": "1.95.0"}]}],
 "declarations": {"claims": [{"bom-ref": "claim", "target": "pump", "predicate": "updates itself"}]}}
JSON
cat > seen.go <<'GO'
package main

import (
	"os"

	cyclonedx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	bill := new(cyclonedx.BOM)
	if err := cyclonedx.NewBOMDecoder(os.Stdin, cyclonedx.BOMFileFormatJSON).Decode(bill); err != nil {
		panic(err)
	}
	if err := cyclonedx.NewBOMEncoder(os.Stdout, cyclonedx.BOMFileFormatJSON).EncodeVersion(bill, cyclonedx.SpecVersion1_6); err != nil {
		panic(err)
	}
}
GO
go run seen.go < bill.json > go.json
cat > seen.py <<'PYTHON'
import json
import sys
from importlib.metadata import version
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

given = Path("bill.json").read_text()
written = {
    "cyclonedx-go": Path("go.json").read_text(),
    f"cyclonedx-python-lib {version('cyclonedx-python-lib')}": JsonV1Dot6(Bom.from_json(json.loads(given))).output_as_string(),
}


def said(text):
    """What the document says, by name; valid or not."""
    document = json.loads(text)
    found = {name for name in document if name not in ("serialNumber", "metadata")}
    found |= {"provides" for each in document.get("dependencies", []) if "provides" in each}
    return found, JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


had, valid = said(given)
print("given, valid:", valid)
lost = []
for library, text in written.items():
    kept, still = said(text)
    lost.append(had - kept)
    print(f"{library}: valid: {still}; lost: {sorted(had - kept)}")
    valid = valid and still
sys.exit(0 if valid and lost == [set(), {"annotations", "compositions", "declarations", "formulation", "provides"}] else 1)
PYTHON
venv/bin/python seen.py
# Seen on two runs:
#   given, valid: True
#   cyclonedx-go: valid: True; lost: []
#   cyclonedx-python-lib 11.12.0: valid: True; lost: ['annotations', 'compositions', 'declarations', 'formulation', 'provides']
