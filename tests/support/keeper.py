"""A module that keeps things: a state (how many events it has handled) and a key, and a device that it writes to."""

from ota.formats.report import Message
from tests.support.lab import PUBLISH, Lab
from tests.support.observer import Seen
from tests.support.wat import contract_module

_KEYS = """(import "device:module/keyvalue@0.1.0" "get" (func $get (param i32 i32 i32)))
  (import "device:module/keyvalue@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32)))"""
_SERIAL = '(import "device:module/serial@0.1.0" "write" (func $write (param i32 i32 i32 i32 i32)))'
_GPIO = '(import "device:module/gpio@0.1.0" "write" (func $drive (param i32 i32 i32 i32)))'
_STATE = """
  (global $count (mut i32) (i32.const 0))
  (func (export "device:module/state@0.1.0#save") (result i32)
    (i32.store (i32.const 64) (global.get $count))
    (i32.store (i32.const 72) (i32.const 64)) (i32.store (i32.const 76) (i32.const 4)) (i32.const 72))
  (func (export "device:module/state@0.1.0#restore") (param i32 i32) (result i32)
    (global.set $count (i32.load (local.get 0))) (i32.const 0))"""
_KEY = """(call $get (i32.const 112) (i32.const 1) (i32.const 240))
    (if (i32.load8_u (i32.const 240)) (then (local.set $key (i32.load8_u (i32.load (i32.const 244))))))"""
_BODY = """(local $what i32) (local $key i32)
    (if (local.get $size) (then (local.set $what (i32.load8_u (local.get $payload)))))
    (if (i32.eq (local.get $what) (i32.const 116)) (then unreachable))
    (if (i32.eq (local.get $what) (i32.const 115)) (then
      (i32.store8 (i32.const 210) (i32.const {version}))
      (call $set (i32.const 112) (i32.const 1) (i32.const 210) (i32.const 1) (i32.const 220))))
    (if (i32.eq (local.get $what) (i32.const 120)) (then
      (i32.store8 (i32.const 210) (i32.const 120))
      (call $set (i32.const 112) (i32.const 1) (i32.const 210) (i32.const 1) (i32.const 220))))
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    {key}
    (i32.store8 (i32.const 200) (i32.const {version})) (i32.store8 (i32.const 201) (global.get $count))
    (i32.store8 (i32.const 202) (local.get $key))
    {device}
    (call $publish (i32.const 100) (i32.const 8) (i32.const 200) (i32.const 3) (i32.const 80)) (i32.const 0)"""
_INIT = """(func (export "device:module/startup@0.1.0#init") (param i32 i32) (result i32) (local $key i32)
    {key} {init} (i32.const 0))"""
POISONED = "(if (i32.eq (local.get $key) (i32.const 120)) (then unreachable))"


def keeper(version: int, init: str = "", port: str = "", line: str = "") -> bytes:
    """For each event it publishes [version, events so far, first byte of its key] on out/kept, and tells its device the version.

    A payload "s" sets its key to the version, "x" to "x", "t" traps. `init` is done at each start, $key at hand.
    """
    imports, device = [PUBLISH, _KEYS], ""
    if port:
        imports.append(_SERIAL)
        device = f"(call $write (i32.const 300) (i32.const {len(port)}) (i32.const 200) (i32.const 1) (i32.const 220))"
    if line:
        imports.append(_GPIO)
        odd = f"(i32.const {version % 2})"
        device = f"(call $drive (i32.const 300) (i32.const {len(line)}) {odd} (i32.const 220))"
    data = f'(data (i32.const 100) "out/kept") (data (i32.const 112) "k") (data (i32.const 300) "{port or line}")'
    body = _BODY.format(version=version, key=_KEY, device=device)
    return contract_module(body, "\n".join(imports), data, _STATE + _INIT.format(key=_KEY, init=init))


class KeeperLab:
    """Installs keepers on a lab's board, and talks with them. Readings of the board's own are off: only these events come."""

    def __init__(self, lab: Lab, devices: dict[str, dict[str, list[str]]] | None = None) -> None:
        lab.settings["proc"] = 0
        self.lab = lab
        self.capabilities = {
            "messaging": {"subscribe": ["in/#"], "publish": ["out/#"]},
            "keyvalue": {"quota_bytes": 1000},
            **(devices or {}),
        }
        lab.settings["extra"] += "[policy.grants.keyvalue]\nquota_bytes = 1000\n" + "".join(
            f"[policy.grants.{name}]\n" + "".join(f"{key} = {value!r}\n" for key, value in arguments.items())
            for name, arguments in (devices or {}).items()
        )

    def update(self, version: int, name: str = "keeper", wasm: bytes = b"", **changes):
        return self.lab.signer.update(
            wasm or keeper(version), name=name, version=f"{version}.0.0", capabilities=self.capabilities, **changes
        )

    def deploy(self, version: int, **changes) -> bytes:
        return self.lab.deploy(self.update(version, **changes))

    def install(self, version: int, **changes) -> Seen:
        self.lab.wait_state("confirmed", deployment=self.deploy(version, **changes))
        return self.lab.running(f"{version}.0.0")

    def tell(self, payload: bytes = b"") -> None:
        self.lab.observer.publish("in/x", payload)

    def ask(self, payload: bytes = b"") -> tuple[int, int, int]:
        """Version, events so far, and key, as the module that runs has them after this event."""
        observer = self.lab.observer
        last = max(observer.messages, default=0)

        def answers() -> list[Message]:
            return [each for number, each in list(observer.messages.items()) if number > last and each.topic == "out/kept"]

        self.tell(payload)
        observer.wait(answers, self.lab.patience_s, "an answer of the module")
        return tuple(answers()[0].payload)

    def slot(self, name: str) -> Seen:
        self.lab.observer.wait(lambda: self.lab.report.running.slot == name, self.lab.patience_s, f"the {name} module")
        return self.lab.report

    def damage(self, wasm: bytes) -> None:
        """Bit rot in the blob of a module."""
        (blob,) = (each for each in (self.lab.folder / "store" / "blobs").iterdir() if each.read_bytes() == wasm)
        blob.write_bytes(b"bit rot")
