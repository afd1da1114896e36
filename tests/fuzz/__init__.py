"""Differential testing: modules made at random do the same here, in both modes and on every processor, and in Wasmtime."""
