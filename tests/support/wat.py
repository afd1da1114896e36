"""Modules out of WebAssembly text, by wabt."""

import functools
import subprocess
import tempfile
from pathlib import Path

from tests.support.cache import cached, digest_of
from tests.support.tools import tool


@functools.cache
def wat(text: str) -> bytes:
    """The binary of a module in text form, with a name section; kept below build/cache."""
    compiler = tool("wat2wasm")

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "module.wat"
            source.write_text(text, encoding="utf-8")
            subprocess.run([compiler, "--debug-names", str(source), "-o", str(target)], check=True)

    return cached("wat", (digest_of(compiler), text), make)


# A module of the contract whose `handle` is the given body: params topic, topic_size, payload, payload_size; result i32.
CONTRACT = """
(module
  {imports}
  (memory (export "memory") 1)
  (global $bump (mut i32) (i32.const 4096))
  (data (i32.const 0) "\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00")
  (data (i32.const 16) "\\01\\00\\00\\00\\20\\00\\00\\00\\02\\00\\00\\00")
  (data (i32.const 32) "no")
  {data}
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $bump) (i32.const 7)) (i32.const -8)))
    (global.set $bump (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func (export "cabi_post_device:module/events@0.1.0#handle") (param i32) (global.set $bump (i32.const 4096)))
  (func $handle (export "device:module/events@0.1.0#handle")
    (param $topic i32) (param $topic_size i32) (param $payload i32) (param $size i32) (result i32)
    {body})
  {more}
)
"""
OK, ERROR = "(i32.const 0)", "(i32.const 16)"


def contract_module(body: str = OK, imports: str = "", data: str = "", more: str = "") -> bytes:
    """A module of the contract; the result at 0 is ok, the one at 16 is the error "no"."""
    return wat(CONTRACT.format(body=body, imports=imports, data=data, more=more))
