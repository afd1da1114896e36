"""Wasmtime as the judge of what modules do."""
