#!/usr/bin/env bash
# ciborium 0.2.2 and minicbor-serde 0.7.2 with serde 1.0.228 (Rust crates): a field that is flattened changes how the map around it is written.
#
# A good engineer would guess: `#[serde(flatten)]` is about the type, not about the document. A struct whose common fields stand in a struct of
#   their own is written as the same bytes as one that has them itself, as it is in JSON.
# What happens: without it the map has its length in front (a2), with it the map is of indefinite length (bf, and ff at its end), in both
#   libraries: serde asks for a map without a length, since it cannot tell how many fields the flattened part will write. Deterministic
#   encoding has no such map (RFC 8949, section 4.2.1: "Indefinite-length items MUST NOT appear").
# Why it matters here: a service in Rust that signs documents for boards moves three fields into a common struct, passes its tests, since its own
#   library reads both, and boards refuse from then on what it signs: our reader takes no indefinite length (`ota/formats/cbor.py`), and
#   cddl-verifier calls it not deterministic, as here. What is signed wants structs without `flatten`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q cddl-verifier==1.5.3
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "seen"
version = "0.1.0"
edition = "2021"

[dependencies]
ciborium = "=0.2.2"
minicbor-serde = { version = "=0.7.2", features = ["alloc"] }
serde = { version = "=1.0.228", features = ["derive"] }
TOML
cat > src/main.rs <<'RUST'
use serde::Serialize;

#[derive(Serialize)]
struct Plain {
    digest: u8,
    sequence: u8,
}

#[derive(Serialize)]
struct Common {
    sequence: u8,
}

#[derive(Serialize)]
struct Flattened {
    digest: u8,
    #[serde(flatten)]
    common: Common,
}

fn show(name: &str, bytes: &[u8]) {
    println!("{name} {}", bytes.iter().map(|each| format!("{each:02x}")).collect::<String>());
}

fn ciborium(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn main() {
    let plain = Plain { digest: 2, sequence: 1 };
    let flattened = Flattened { digest: 2, common: Common { sequence: 1 } };
    show("ciborium plain", &ciborium(&plain));
    show("ciborium flattened", &ciborium(&flattened));
    show("minicbor plain", &minicbor_serde::to_vec(&plain).unwrap());
    show("minicbor flattened", &minicbor_serde::to_vec(&flattened).unwrap());
}
RUST
cargo build -q
target/debug/seen | tee said
cat > seen.py <<'PYTHON'
import logging
import sys

from cddl_verifier import Validator

logging.disable()
schema = Validator('document = { "sequence" => uint, "digest" => uint }')
found = {}
for line in open("said"):
    library, kind, text = line.split()
    written = bytes.fromhex(text)
    fits = schema.validate(written, "document").valid
    deterministic = schema.validate(written, "document", require_deterministic=True).valid
    print(f"{library} {kind}: fits the schema: {fits}, deterministic by RFC 8949: {deterministic}")
    found[library, kind] = text[:2], text[-2:], fits, deterministic
plain, flattened = ("a2", "01", True, True), ("bf", "ff", True, False)
expected = {(library, kind): plain if kind == "plain" else flattened for library, kind in found}
sys.exit(0 if found == expected and len(found) == 4 else 1)
PYTHON
venv/bin/python seen.py
# Seen on two runs:
#   ciborium plain a266646967657374026873657175656e636501
#   ciborium flattened bf66646967657374026873657175656e636501ff
#   minicbor plain a266646967657374026873657175656e636501
#   minicbor flattened bf66646967657374026873657175656e636501ff
#   ciborium plain: fits the schema: True, deterministic by RFC 8949: True
#   ciborium flattened: fits the schema: True, deterministic by RFC 8949: False
#   (the same for minicbor)
