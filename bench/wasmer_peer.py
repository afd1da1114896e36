"""The kernels in wasmer 1.1, in a process of their own: its Python package was last built for Python 3.10.

python3.10 wasmer_peer.py MODULE.wasm, then on each line of its input a kernel and how often; it answers each with the checksum.
"""

import sys
from pathlib import Path

import wasmer
from wasmer_compiler_cranelift import Compiler


def main() -> None:
    store = wasmer.Store(wasmer.engine.JIT(Compiler))
    exports = wasmer.Instance(wasmer.Module(store, Path(sys.argv[1]).read_bytes())).exports
    print("ready", flush=True)
    for line in sys.stdin:
        name, count = line.split()
        print(getattr(exports, name)(int(count)), flush=True)


main()
