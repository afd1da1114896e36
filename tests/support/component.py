"""The contract once more, independent of ours: a module as a component in Wasmtime, its imports as plain Python functions."""

import re
import tempfile
from pathlib import Path

from wasmtime import Engine, Store, WasiConfig, WasmtimeError
from wasmtime.component import Component, Linker

from ota.formats.capabilities import check_exports
from pywamr import Runtime
from tests.conftest import ROOT
from tests.support.tools import wasm_tools

INTERFACE = "device:module/{}@0.1.0"


def component(wasm: bytes) -> bytes:
    """A module of the contract as a component, by wasm-tools, in a world that exports what the module does."""
    with Runtime() as runtime:
        exported = sorted(check_exports(each.name for each in runtime.load(wasm).exports))
    wit = (ROOT / "sdk/wit/module.wit").read_text()
    imports = re.findall(r"^    import (\w+);", wit, re.MULTILINE)
    world = "".join(f"  import {each};\n" for each in imports) + "".join(f"  export {each};\n" for each in exported)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "module.wit").write_text(wit + f"\nworld judged {{\n{world}}}\n")
        (folder / "core.wasm").write_bytes(wasm)
        embedded = wasm_tools("component", "embed", folder / "module.wit", "--world", "judged", folder / "core.wasm")
        (folder / "embedded.wasm").write_bytes(embedded)
        return wasm_tools("component", "new", folder / "embedded.wasm")


class Judge:
    """One component and what it did. `may_publish` decides on topics."""

    def __init__(self, binary: bytes, may_publish) -> None:
        self._store = Store(engine := Engine())
        linked = Component(engine, binary)
        self._may_publish = may_publish
        self._messages, self._writes, self._keys = [], {}, {}
        linker = Linker(engine)
        hosts = {
            "logging": {"log": lambda _, level, message: None},
            "messaging": {"publish": self._publish},
            "keyvalue": {"get": self._get, "set": self._set, "delete": self._delete},
        }
        with linker.root() as root:
            for interface, functions in hosts.items():
                with root.add_instance(INTERFACE.format(interface)) as instance:
                    for field, function in functions.items():
                        instance.add_func(field, function)
        if b"wasi:" in binary:  # traps would be in place of those of a compatible version
            self._store.set_wasi(WasiConfig())
            linker.add_wasip2()
        else:
            linker.define_unknown_imports_as_traps(linked)
        self._instance = linker.instantiate(self._store, linked)

    def call(self, interface: str, function: str, *values):
        """("ok", messages, writes), ("error", text) or ("trap",), after which there is nothing more to call."""
        self._messages, self._writes = [], {}
        outer = self._instance.get_export_index(self._store, INTERFACE.format(interface))
        found = self._instance.get_func(self._store, self._instance.get_export_index(self._store, function, outer))
        try:
            result = found(self._store, *values)
            found.post_return(self._store)
        except WasmtimeError:
            return ("trap",)
        if result is not None:  # ok has no value
            return ("error", result)
        self._keys |= self._writes
        return ("ok", self._messages, self._writes)

    # An error is its value, ok is None.

    def _publish(self, _, topic, payload):
        if not self._may_publish(topic):
            return "denied"
        self._messages.append((topic, bytes(payload)))
        return None

    def _get(self, _, key):
        return {**self._keys, **self._writes}.get(key)

    def _set(self, _, key, value):
        if not 0 < len(key.encode()) <= 256:
            return "no key"
        self._writes[key] = bytes(value)
        return None

    def _delete(self, _, key):
        self._writes[key] = None
