"""Modules to compare, made of a seed and a number: by wasm-smith, by mutating real ones, and loops that store and trap."""

import contextlib
import hashlib
import random
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import wasmtime

from ota.formats.wasm import sections
from tests.fuzz.forked import ROOT
from tests.support import after_traps, blocks
from tests.support.tools import tool

MAX_BYTES, TOOL_TIMEOUT_S, FUEL = 300_000, 60, 3000
CORPUS = ("build/modules/*.wasm", "build/spec/json/wasm-v2-*/*.wasm", "build/spec/json/simd-*/*.wasm", "build/programs/**/*.wasm")
PROPOSALS = {
    f"{name}-enabled": "false"
    for name in ("relaxed-simd", "tail-call", "gc", "exceptions", "threads", "memory64", "wide-arithmetic",
                 "custom-page-sizes", "shared-everything-threads", "custom-descriptors", "compact-imports")
}  # fmt: skip
SHAPE = {
    "export-everything": "true", "canonicalize-nans": "true", "max-memories": 1, "max-memory32-bytes": 1 << 20,
    "max-table-elements": 512, "min-funcs": 3, "max-funcs": 20, "allow-start-export": "true", "multi-value-enabled": "true",
    "extended-const-enabled": "true",
}  # fmt: skip
IMPORTS = """(module (import "host" "a" (func)) (import "host" "b" (func (param i32 i64) (result i32)))
  (import "host" "c" (func (param f32 i32 f64) (result f64))) (import "host" "d" (func (param externref) (result i64)))
  (import "host" "e" (func (param i32) (result f32))) (import "host" "f" (func (param funcref i64))))"""
_MEMORY, _GLOBAL, _EXPORT = 5, 6, 7


class NoCase(Exception):
    """A tool made no module of these numbers, as it sometimes does."""


@dataclass(frozen=True)
class Case:
    """A module, how it was made, and the seed of its calls' arguments."""

    name: str
    wasm: bytes
    seed: int


def made(seed: int, number: int, corpus: list[Path]) -> Case:
    """The same for the same numbers, corpus and versions of tools. Raises NoCase."""
    source = random.Random(f"{seed} {number}")
    kind = source.choice(("smith", "smith", "smith", "mutated", "mutated", "loops", "blocks"))
    if kind == "mutated" and corpus:
        name, wasm = mutated(corpus, source)
    elif kind == "loops":
        name, wasm = kind, loops(source)
    elif kind == "blocks":
        name, wasm = kind, bytes(wasmtime.wat2wasm(blocks.module(source, vectors=source.random() < 0.5)))
    else:
        name, wasm = "smith", smith(source)
    return Case(f"{seed}-{number} {name}", wasm, source.getrandbits(32))


def corpus(more: list[Path]) -> list[Path]:
    """The modules to mutate that are there, each content once."""
    found = {}
    for path in (
        *(path for pattern in CORPUS for path in ROOT.glob(pattern)),
        *(path for folder in more for path in folder.rglob("*.wasm")),
    ):
        if path.stat().st_size <= MAX_BYTES:
            found.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    return [found[digest] for digest in sorted(found)]


def smith(source: random.Random) -> bytes:
    """A module that ends by itself, with or without vectors, floats, traps and imports."""
    shape: dict[str, object] = PROPOSALS | SHAPE
    shape["simd-enabled"] = source.choice(("true", "false"))
    shape["allow-floats"] = source.choice(("true", "true", "false"))
    shape["disallow-traps"] = source.choice(("false", "false", "false", "true"))
    shape["memory-offset-choices"] = source.choice(("75,24,1", "90,10,0"))
    shape["max-instructions"] = source.choice((100, 100, 400))
    size = source.choice((500, 2000, 4000, 8000))
    with tempfile.TemporaryDirectory() as folder:
        if source.random() < 0.5:
            imports = Path(folder) / "imports.wasm"
            imports.write_bytes(wasmtime.wat2wasm(IMPORTS))
            shape["available-imports"] = imports
        else:
            shape["max-imports"] = 0
        flags = [f"--{name}={value}" for name, value in shape.items()]
        return _made("smith", "--ensure-termination", "-f", FUEL, *flags, given=source.randbytes(size))


def mutated(corpus: list[Path], source: random.Random) -> tuple[str, bytes]:
    """A module after a few random changes, whose memory and globals can be read from outside. It may run for ever."""
    for _ in range(20):
        base = source.choice(corpus)
        wasm = base.read_bytes()
        if not is_core(base):  # the spec tests have many that are not valid
            continue
        for _ in range(source.randint(1, 6)):
            with contextlib.suppress(NoCase):
                wasm = _made("mutate", "--seed", source.getrandbits(63), given=wasm)
        return f"mutated {base.parent.name}/{base.name}", exposed(wasm)
    raise NoCase("no module could be mutated")


def loops(source: random.Random) -> bytes:
    """Loops that store near the end of memory."""
    programs = [after_traps.made(source) for _ in range(8)]
    text = after_traps.module(*(body for body, *_ in programs))
    first = 5  # behind the functions that every such module has
    for number, (_, *numbers) in enumerate(programs):
        given = " ".join(f"(i32.const {each})" for each in numbers)
        text = text.replace(f'(export "run{number}") ', "")
        text = text.rstrip()[:-1] + f'(func (export "go{number}") (call {first + number} {given})))'
    return exposed(bytes(wasmtime.wat2wasm(text)))


def exposed(wasm: bytes) -> bytes:
    """With its own memory and globals among its exports."""
    counts, exports, parts, begin = {_MEMORY: 0, _GLOBAL: 0}, b"\0", [], 8
    for kind, _, start, content in sections(wasm):
        if kind in counts:
            counts[kind], _ = _number(content)
        if kind == _EXPORT:
            exports = content
        else:
            parts.append((kind, wasm[begin : start + len(content)]))
        begin = start + len(content)
    wanted = [(b"\2", index) for index in range(min(counts[_MEMORY], 1))] + [(b"\3", index) for index in range(counts[_GLOBAL])]
    count, at = _number(exports)
    rows = b"".join(_text(f"fuzz-{kind[0]}-{index}") + kind + _leb(index) for kind, index in wanted)
    content = _leb(count + len(wanted)) + exports[at:] + rows
    place = next((place for place, (kind, _) in enumerate(parts) if kind > _EXPORT), len(parts))
    parts.insert(place, (_EXPORT, bytes((_EXPORT,)) + _leb(len(content)) + content))
    return wasm[:8] + b"".join(part for _, part in parts)


def is_core(path: Path) -> bool:
    """Whether a file is a valid module of what boards have: core 2.0, vectors included, and extended constant expressions."""
    words = [tool("wasm-tools"), "validate", "--features", "wasm2,extended-const", str(path)]
    return subprocess.run(words, capture_output=True, check=False, timeout=TOOL_TIMEOUT_S).returncode == 0


def _made(*command: object, given: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given"
        path.write_bytes(given)
        words = [tool("wasm-tools"), *map(str, command), str(path)]
        try:
            done = subprocess.run(words, capture_output=True, check=False, timeout=TOOL_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise NoCase("the tool took too long") from error
    if done.returncode or len(done.stdout) > 2 * MAX_BYTES:
        raise NoCase(done.stderr.decode("utf-8", "replace")[:200])
    return done.stdout


def _number(data: bytes) -> tuple[int, int]:
    value = 0
    for at, byte in enumerate(data):
        value |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return value, at + 1
    return 0, 0


def _leb(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


def _text(name: str) -> bytes:
    return _leb(len(name)) + name.encode()
