"""From a script in JavaScript or TypeScript to a module: the engine (ota.author.engine) with the script as a data segment.

No compiler runs for that. TypeScript, and scripts that import other files, go through esbuild first.
"""

import base64
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ota.author.engine import CAPABILITIES, STACK_BYTES, engine
from ota.author.source_map import Place, places
from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats import wasm
from ota.formats.capabilities import Capabilities
from ota.formats.fields import is_name
from ota.formats.module import Limits
from ota.toml_file import read_toml

SUFFIXES = (".js", ".mjs", ".ts", ".mts")
ESBUILD = "esbuild@0.28.2"
SCRIPT_LIMIT_BYTES = 4 << 20
PAGE = 65536
RESERVED_PAGES = 2  # for what the host passes in; the engine's own limit is that much below the module's
STACK_LIMIT_BYTES = STACK_BYTES - 32768  # of the engine: the rest is for what it calls without a look at the limit
STACK_RATIO = 5  # a call of a script takes four times as much of the interpreter's stack (stack_bytes) as of the engine's own
LEAST_PAGES = 8  # beside those of the script
_BUNDLE_LIMIT_S, _CHECK_LIMIT_S = 120, 60
_ESBUILD = (
    "--format=esm", "--target=es2023", "--charset=utf8", "--legal-comments=none", "--sourcemap=inline", "--sources-content=false",
    "--log-level=warning", "--color=false",
)  # fmt: skip
_DATA, _MEMORY, _GLOBAL, _EXPORT, _DATA_COUNT = 11, 5, 6, 7, 12
_SPECIFIER = re.compile(r"""(?:^|[;}\n])\s*(?:import|(?:import|export)\b[\w\s{},*$]*\bfrom)\s*['"]([^'"\n]+)['"]""")
_LATER = re.compile(r"""\bimport\s*\(\s*['"]([^'"\n]+)['"]\s*[,)]""")  # import("…")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)  # where types are imported for editors
_NOW = re.compile(r"\bDate\.now\b|\bnew\s+Date\s*(?:\(\s*\)|[^\s(.\w])")
_RANDOM = re.compile(r"\bMath\.random\b")
_CONTRACT = re.compile(r"device:module/([a-z]+)(?:@0\.1\.0)?")


class ScriptError(OtaError):
    """The script can't become a module."""


@dataclass(frozen=True)
class Script:
    """What the engine is given."""

    name: str  # of the file, as stacks show it
    source: bytes
    places: tuple[Place, ...] = ()  # what it was made from; empty: it is its own source


def is_script(path: Path) -> bool:
    """Whether the file is one for `compiled`, by its name."""
    return path.suffix in SUFFIXES


def compiled(path: Path, *, check: bool = True) -> bytes:
    """The module that a script becomes. With `check`, what does not parse is refused here.

    The description beside it says which capabilities are linked in. Raises ScriptError, EngineError, and as the description does.
    """
    script = _read(path)
    description = path.with_suffix(".toml")
    table = read_toml(description) if description.exists() else {}
    limits = Limits.parse(table.get("limits", {}), str(description))
    if description.exists():
        wanted = set(Capabilities.parse(table.get("capabilities", {}), str(description)).items)
    else:
        wanted = {found[1] for each in _specifiers(script.source) if (found := _CONTRACT.fullmatch(each))}
    sys.stderr.write("".join(f"{path.name}: {each}\n" for each in _warnings(script.source.decode(), wanted)))
    empty = engine(wanted)
    if check:
        _check(empty, script, limits)
    return with_script(empty, script, limits)


def compile_script(path: Path) -> Path:
    """Makes the .wasm beside a script and returns it, without a look at whether it parses: whoever runs it will tell.

    Raises as `compiled`.
    """
    target = path.with_suffix(".wasm")
    _write(target, compiled(path, check=False))
    return target


def _warnings(text: str, wanted: Collection[str]) -> Iterator[str]:
    """What would run and give something else than the script seems to expect."""
    text = _COMMENT.sub("", text)
    if "clock" not in wanted and _NOW.search(text):
        yield "Date gives 1970 as the time now: it needs [capabilities.clock] in the .toml"
    if not {"clock", "random"} & set(wanted) and _RANDOM.search(text):
        yield "Math.random() gives the same numbers at each start: it needs [capabilities.random] in the .toml"


def _write(path: Path, content: bytes) -> None:
    try:
        write_durably(path, content)  # another build of the same script may be reading it
    except OSError as error:
        raise ScriptError(f"{path}: {error.strerror}") from error


# -- the script


def _read(path: Path) -> Script:
    try:
        with path.open("rb") as file:
            source = file.read(SCRIPT_LIMIT_BYTES + 1)
    except OSError as error:
        raise ScriptError(f"{path}: {error.strerror}") from error
    if len(source) > SCRIPT_LIMIT_BYTES:
        raise ScriptError(f"{path} is larger than {SCRIPT_LIMIT_BYTES} bytes")
    try:
        source.decode()
    except UnicodeDecodeError:
        raise ScriptError(f"{path} is not UTF-8") from None
    name = path.name if is_name(path.name) else f"module{path.suffix}"
    if path.suffix in {".ts", ".mts"} or not all(map(_CONTRACT.fullmatch, _specifiers(source))):
        return _bundled(path, name)
    return Script(name, source)


def _specifiers(source: bytes) -> list[str]:
    """What it seems to import: text that only looks so costs a bundle that would not be needed."""
    text = source.decode()
    return _SPECIFIER.findall(text) + _LATER.findall(_COMMENT.sub("", text))


def _bundled(path: Path, name: str) -> Script:
    """The script and what it imports as one, in JavaScript."""
    path = path.absolute()
    esbuild = [_esbuild(path.parent), *_ESBUILD]
    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole.js", Path(folder) / "bundle.js"
        bundle = ["--bundle", "--platform=neutral", "--main-fields=module,main", "--external:device:*"]
        _run([*esbuild, *bundle, f"./{path.name}", f"--outfile={whole}"], path)
        # Once more: that drops the comments with the names of files, by which the result would depend on folders.
        _run([*esbuild, "--log-level=error", str(whole), f"--outfile={out}"], path)
        made = out.read_bytes().decode()  # as it is: reading it as text would change its line ends
    code, _, mapped = made.rpartition("//# sourceMappingURL=data:application/json;base64,")
    source = code.encode()
    if len(source) > SCRIPT_LIMIT_BYTES:
        raise ScriptError(f"{path.name} with what it imports is larger than {SCRIPT_LIMIT_BYTES} bytes")
    return Script(name, source, places(json.loads(base64.b64decode(mapped)), code))


def _run(command: list[str], path: Path) -> None:
    try:
        done = subprocess.run(command, cwd=path.parent, capture_output=True, timeout=_BUNDLE_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise ScriptError(f"{path.name}: esbuild did not end within {_BUNDLE_LIMIT_S} s") from None
    told = done.stderr.decode(errors="replace")
    if done.returncode:
        raise ScriptError(f"{path.name}: {' '.join(told.split())[:2000]}")
    sys.stderr.write(told)  # its warnings


def _esbuild(folder: Path) -> str:
    """That of the nearest node_modules, else the one on the PATH."""
    for each in (folder, *folder.parents):
        found = each / "node_modules" / ".bin" / "esbuild"
        if os.access(found, os.X_OK):
            return str(found)
    on_path = shutil.which("esbuild")
    if on_path is None:
        raise ScriptError(f"TypeScript, and scripts that import other files, need esbuild: npm install --save-dev {ESBUILD}")
    return on_path


def _check(empty: bytes, script: Script, limits: Limits) -> None:
    """Lets the engine parse the script, without running it. Raises ScriptError with its message."""
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder) / "check.wasm"
        module.write_bytes(with_script(empty, script, limits, check_only=True))
        asked = "".join(f"[capabilities.{name}]\n" for name in CAPABILITIES)
        module.with_suffix(".toml").write_text(
            f"[limits]\nmemory_pages = {limits.memory_pages}\nstack_bytes = {limits.stack_bytes}\n{asked}"
        )
        command = [sys.executable, "-m", "device_agent", "--prog", script.name, "run", str(module), "--json"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            raise ScriptError(f"{script.name} was not parsed within {_CHECK_LIMIT_S} s") from None
    if done.returncode:
        traps = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        told = [each["message"] for each in traps if "code" in each]
        raise ScriptError(" ".join(told or [done.stderr.strip()]))


# -- the module


def with_script(empty: bytes, script: Script, limits: Limits, *, check_only: bool = False) -> bytes:
    """The engine with the script behind its memory, and dm_slot (sdk/javascript/engine.c) filled in. Raises ScriptError."""
    sections = [(kind, name, content) for kind, name, _, content in wasm.sections(empty)]
    content = {kind: bytes(body) for kind, _, body in sections if kind}
    pages = wasm.read(empty).memory_pages
    start = pages * PAGE
    data, table = _laid_out(script, start)
    added = -(-len(data) // PAGE)
    if pages + added + LEAST_PAGES > limits.memory_pages:
        raise ScriptError(
            f"{script.name} needs memory_pages = {pages + added + LEAST_PAGES} or more in [limits], not {limits.memory_pages}"
        )
    limit = (limits.memory_pages - pages - added - RESERVED_PAGES) * PAGE
    name, stack = start + len(script.source) + 1, min(limits.stack_bytes // STACK_RATIO, STACK_LIMIT_BYTES)
    slot = struct.pack("<8I", start, len(script.source), name, limit, table, len(script.places), check_only, stack)
    changed = {
        _MEMORY: b"\x01\x00" + _leb(pages + added),
        _DATA: _with_segments(content[_DATA], [(start, data), (_slot_address(content), slot)]),
    }
    if _DATA_COUNT in content:
        changed[_DATA_COUNT] = _leb(_number(content[_DATA_COUNT], 0)[0] + 2)
    out = [empty[:8]]
    for kind, _, body in sections:
        if kind:  # custom sections say nothing here
            made = changed.get(kind, body)
            out += [bytes([kind]), _leb(len(made)), made]
    return b"".join(out)


def _laid_out(script: Script, start: int) -> tuple[bytes, int]:
    """The bytes behind the memory, and where in them the table of places is."""
    data = bytearray(script.source + b"\0" + script.name.encode() + b"\0")
    names: dict[str, int] = {}
    for name in dict.fromkeys(each.file for each in script.places):
        names[name] = start + len(data)
        data += name.encode() + b"\0"
    data += bytes(-len(data) % 4)
    table = start + len(data)
    for each in script.places:
        data += struct.pack("<4I", each.line, each.column, names[each.file], each.file_line)
    return bytes(data), table


def _with_segments(section: bytes, segments: list[tuple[int, bytes]]) -> bytes:
    count, at = _number(section, 0)
    made = b"".join(b"\x00\x41" + _signed_leb(where) + b"\x0b" + _leb(len(data)) + data for where, data in segments)
    return _leb(count + len(segments)) + section[at:] + made


def _slot_address(content: dict[int, bytes]) -> int:
    """The value of the exported global dm_slot. All globals of the engine are of type i32 and begin with a constant."""
    exports = content[_EXPORT]
    name = b"\x07dm_slot\x03"
    index, _ = _number(exports, exports.index(name) + len(name))
    body = content[_GLOBAL]
    _, at = _number(body, 0)
    value = 0
    for _ in range(index + 1):
        value, at = _number(body, at + 3)  # type, mutability, i32.const; not negative
        at += 1
    return value


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _signed_leb(value: int) -> bytes:
    """Of a number that is not negative."""
    out = bytearray()
    while value >= 0x40:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
