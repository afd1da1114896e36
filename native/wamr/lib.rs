//! Empty: this package only pins the WAMR source tree (see Cargo.toml).
