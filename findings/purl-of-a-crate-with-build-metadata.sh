#!/usr/bin/env bash
# packageurl-python 0.17.6 (PyPI) beside packageurl-js 2.0.1 (npm): the package URL of one crate has two canonical spellings.
#
# A good engineer would guess: a package URL is an identifier with one canonical form, which is why SBOMs of different tools are joined, and
#   looked up in databases of faults, by comparing strings.
# What happens: a version with build metadata, as each Rust module for WASI has it in its lock file (the crate `wasi`, 0.11.0 with a plus), is
#   written with %2B by the Python library and with + by the JavaScript one. Each reads the other's spelling, and writes its own again. In a
#   qualifier they differ in the meaning too: a + is a plus in Python and a space in JavaScript.
# Why it matters here: `ota sbom` writes package URLs by the Python library. Who joins its SBOMs with those of a JavaScript tool must parse
#   package URLs, and may not compare them as text.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q packageurl-python==0.17.6
npm init -y > npm.log
npm install --no-audit --no-fund --ignore-scripts packageurl-js@2.0.1 >> npm.log 2>&1
cat > seen.py <<'PYTHON'
import json
import sys

from packageurl import PackageURL

other = "pkg:cargo/wasi@0.11.0+wasi-snapshot-preview1"
written = PackageURL("cargo", None, "wasi", "0.11.0+wasi-snapshot-preview1").to_string()
read = PackageURL.from_string(other)
label = PackageURL.from_string("pkg:generic/blink@1?label=a+b").qualifiers["label"]
print(json.dumps({"written": written, "version": read.version, "again": read.to_string(), "label": label}))
PYTHON
cat > seen.mjs <<'JAVASCRIPT'
import { PackageURL } from "packageurl-js";

const other = "pkg:cargo/wasi@0.11.0%2Bwasi-snapshot-preview1";
const written = new PackageURL("cargo", undefined, "wasi", "0.11.0+wasi-snapshot-preview1").toString();
const read = PackageURL.fromString(other);
const { label } = PackageURL.fromString("pkg:generic/blink@1?label=a+b").qualifiers;
console.log(JSON.stringify({ written, version: read.version, again: read.toString(), label }));
JAVASCRIPT
venv/bin/python seen.py | tee python
node seen.mjs | tee javascript
python3 - <<'PYTHON'
import json
import sys

one, two = (json.load(open(each)) for each in ("python", "javascript"))
start, rest = "pkg:cargo/wasi@0.11.0", "wasi-snapshot-preview1"
expected = [
    one["written"] == one["again"] == f"{start}%2B{rest}",
    two["written"] == two["again"] == f"{start}+{rest}",
    one["version"] == two["version"] == f"0.11.0+{rest}",
    (one["label"], two["label"]) == ("a+b", "a b"),
]
sys.exit(0 if all(expected) else 1)
PYTHON
# Seen on two runs, with Node.js 20 (each line shortened):
#   "written": "pkg:cargo/wasi@0.11.0%2Bwasi-snapshot-preview1", "version": "0.11.0+wasi-snapshot-preview1", "label": "a+b"
#   "written":"pkg:cargo/wasi@0.11.0+wasi-snapshot-preview1","version":"0.11.0+wasi-snapshot-preview1","label":"a b"
