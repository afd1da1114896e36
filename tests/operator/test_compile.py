"""Compiling ahead of time: what it leaves behind, what is kept, and that targets do not wait for each other."""

import threading

import pytest

from ota.author import aot, build
from ota.author.aot import AotError, Compiler, compile_all, host_target
from tests.support.aot import aotc
from tests.support.wat import OK, contract_module

pytestmark = pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WAMR_OTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def module() -> bytes:
    return contract_module(OK, "", "", "")


@pytest.mark.parametrize("limit_s", [aot.COMPILE_LIMIT_S, 0.01])
def test_nothing_is_left_in_the_folder_where_the_operator_stands(tmp_path, monkeypatch, module, limit_s):
    """WAMR's compiler notes how much stack functions take in a file where it runs, and leaves it when it is ended."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(aot, "COMPILE_LIMIT_S", limit_s)
    try:
        Compiler().compile(module, "x86_64")
        assert limit_s > 1
    except AotError as error:
        assert "took more than" in str(error)
    assert list(here.iterdir()) == []


def test_what_was_compiled_before_is_not_compiled_again(monkeypatch, module):
    first = Compiler().compile(module, host_target())
    monkeypatch.setattr(Compiler, "_make", lambda *_: pytest.fail("it is there"))
    assert Compiler().compile(module, host_target()) == first


@pytest.mark.parametrize("other", ["module", "target", "cpu", "compiler", "flags", "anew"])
def test_anything_else_is_compiled(monkeypatch, module, other):
    compiler = Compiler()
    compiler.compile(module, "x86_64")
    monkeypatch.setattr(Compiler, "_make", lambda *_: b"made")
    if other == "compiler":
        compiler.llvm = "LLVM 99.0.0"
    if other == "flags":
        compiler.flags = {**compiler.flags, "x86_64": "4 x86_64 bounds=hardware"}
    content = contract_module(OK, "", '(data (i32.const 7) "x")', "") if other == "module" else module
    target, cpu = "aarch64" if other == "target" else "x86_64", "generic" if other == "cpu" else ""
    assert compiler.compile(content, target, cpu, anew=other == "anew").image == b"made"


def test_a_damaged_image_of_the_cache_is_compiled_anew(cache, module):
    first = Compiler().compile(module, host_target())
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    assert Compiler().compile(module, host_target()) == first


def test_without_a_cache_it_is_compiled_all_the_same(cache, module):
    cache.write_text("a file where the folder would be")
    assert Compiler().compile(module, host_target()).image


def test_targets_are_compiled_side_by_side_in_the_order_that_was_asked_for(monkeypatch, module):
    together = threading.Barrier(2)

    def make(_self, folder, wasm, target, cpu, name) -> bytes:
        together.wait(60)  # breaks when the other one is not compiled at the same time
        return f"{target} {cpu}".encode()

    monkeypatch.setattr(aot.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(aot, "LARGE_BYTES", 1)
    monkeypatch.setattr(Compiler, "_make", make)
    told: list[str] = []
    made = compile_all(module, ["armv7", "aarch64:cortex-a53+crc"], name="m.wasm", progress=told.append)
    assert [each.image for each in made] == [b"armv7 ", b"aarch64 cortex-a53+crc"]
    assert told[0] == "compiling m.wasm, 0.0 MB, ahead of time for armv7, aarch64:cortex-a53+crc"
    assert sorted(line.partition(":")[0] for line in told[1:]) == ["  aarch64", "  armv7"]


@pytest.mark.parametrize(
    ("size_mb", "memory_gb", "processors", "most"), [(2, 64, 8, 8), (2, 8, 8, 3), (2, 1, 8, 1), (0.01, 1, 4, 4)]
)
def test_no_more_compilers_run_than_memory_has_room_for(monkeypatch, size_mb, memory_gb, processors, most):
    monkeypatch.setattr(aot.os, "cpu_count", lambda: processors)
    monkeypatch.setattr(aot.os, "sysconf", {"SC_PHYS_PAGES": int(memory_gb * 1e9) // 4096, "SC_PAGE_SIZE": 4096}.get)
    assert aot._side_by_side(int(size_mb * 1e6)) == most


def test_a_small_module_is_compiled_without_a_word(module):
    told: list[str] = []
    compile_all(module, [host_target()], name="m.wasm", progress=told.append)
    assert told == []


def test_images_are_of_the_module_that_is_signed_although_its_file_changes(tmp_path, monkeypatch, module):
    """Another build of the same script may replace the file at any moment."""
    path = tmp_path / "m.wasm"
    path.write_bytes(module)
    describe, compiled = build.describe, []

    def described(*about):
        path.write_bytes(b"another")
        return describe(*about)

    def make(_self, folder, wasm, target, cpu, name) -> bytes:
        compiled.append(wasm)
        return b"image"

    monkeypatch.setattr(build, "describe", described)
    monkeypatch.setattr(Compiler, "_make", make)
    assert build.prepare(path, "example.com", aot=[host_target()]).blob == module
    assert compiled == [module]
