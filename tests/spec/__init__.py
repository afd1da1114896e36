"""The WebAssembly spec tests, through pywamr, interpreted and compiled ahead of time."""
