"""Fixtures: built example modules, public vectors, brokers on the loopback."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pywamr import Module, Runtime
from pywamr.runtime import MODULE_LIMIT_BYTES
from tests.support.aot import aotc, compiled
from tests.support.cache import locked

pytest_plugins = ["tests.support.garbage", "tests.support.tiers"]
ROOT = Path(__file__).parent.parent
VECTORS = ROOT.parent / "shared" / "vectors"

os.environ.setdefault("WAMR_OTA_CACHE", str(ROOT / "build" / "cache"))
os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(ROOT / "build" / "zig"))
settings.register_profile("default", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_MAX_EXAMPLES", "100")))
settings.load_profile("default")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs have it: what tests start would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)

if folder := os.environ.get("PYWAMR_TEST_LIBRARY_FOLDER"):  # a sanitizer build of the same library
    import pywamr

    pywamr.__path__ = [folder, *pywamr.__path__]


@pytest.fixture(scope="session")
def modules() -> Path:
    """Folder of the built example modules."""
    out = ROOT / "build" / "modules"
    with locked("modules"):
        subprocess.run([sys.executable, str(ROOT / "sdk" / "build.py"), "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Folder of public test vectors, which are not part of the project."""
    if not VECTORS.is_dir():
        pytest.skip("the public test vectors are not beside this clone")
    return VECTORS


class CompilingRuntime(Runtime):
    """Compiles modules ahead of time on their way in, so that one test says the same of both modes."""

    def load(self, wasm: bytes, limit_bytes: int = MODULE_LIMIT_BYTES) -> Module:
        if wasm[:4] == b"\0asm" and len(wasm) <= limit_bytes:
            with Runtime() as first, first.load(wasm):  # what the interpreter refuses is refused in its words
                wasm = compiled(bytes(wasm))
        return super().load(wasm, limit_bytes)


@pytest.fixture(params=("interpreter", "aot"))
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """An open pywamr runtime, in each mode."""
    if request.param == "aot" and aotc() is None:
        pytest.skip("wamr_aotc is not built: make aotc")
    with (Runtime if request.param == "interpreter" else CompilingRuntime)() as opened:
        yield opened


@pytest.fixture
def interpreter() -> Iterator[Runtime]:
    """An open pywamr runtime, for what only the interpreter can."""
    with Runtime() as opened:
        yield opened
