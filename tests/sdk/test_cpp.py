"""device_module.h in C++: with the library, without it, and constructors."""

import subprocess
import sys

import pytest

from device_agent.sandbox.contract import ModuleHost
from ota.author.build import describe
from ota.cli.main import main
from ota.formats import wasm
from tests.conftest import ROOT

FLAGS = ["-O2", "-Wl,-z,stack-size=16384", "-Wall", "-Wextra", "-Werror", "-I", str(ROOT / "sdk" / "c")]
FREESTANDING = ["-target", "wasm32-freestanding", "-nostdlib", "-fno-builtin", "-fno-exceptions", "-fno-rtti", "-Wl,--no-entry"]
REACTOR = ["-target", "wasm32-wasi", "-mexec-model=reactor", "-fno-exceptions"]
LIBRARY_BUILT = pytest.mark.full  # zig builds the C++ library once, which takes a minute
COUNTS = """#include "device_module.h"
static int made;
struct Counter { int n; Counter() : n(++made) { volatile int x = n; n = x; } };
static Counter counter;
static bool handle(dm_bytes, dm_bytes, dm_bytes *)
{
    uint8_t digits[] = { uint8_t('0' + made), uint8_t('0' + counter.n++) };
    return dm_publish(DM_TEXT("out/n"), dm_view(digits, 2)) == DM_PUBLISHED;
}
DM_EVENTS(handle)
"""
LIBRARY = """#include "device_module.h"
#include <map>
#include <string>
static std::map<std::string, int> seen;
static bool handle(dm_bytes topic, dm_bytes, dm_bytes *)
{
    std::string text = std::to_string(++seen[std::string(reinterpret_cast<char *>(topic.at), topic.size)]);
    return dm_publish(DM_TEXT("out/n"), dm_view(text.data(), text.size())) == DM_PUBLISHED;
}
DM_EVENTS(handle)
"""
PUBLISH = '[capabilities.messaging]\npublish = ["out/#"]\n'


def built(folder, source, *flags, compiler="c++"):
    file, module = folder / f"module.{'c' if compiler == 'cc' else 'cpp'}", folder / "module.wasm"
    file.write_text(source)
    subprocess.run([sys.executable, "-m", "ziglang", compiler, *FLAGS, *flags, str(file), "-o", str(module)], check=True)
    module.with_suffix(".toml").write_text("[module]\nname = 'm'\nversion = '1'\n[capabilities.wasi]\n" + PUBLISH)
    return module


def said(module, *topics):
    content = module.read_bytes()
    host = ModuleHost(content, describe(module, wasm.read(content)), {}, lambda *_: None)
    return [payload for topic in topics for _, payload in host.handle(topic, b"").messages]


@pytest.mark.parametrize(
    "flags", [(*FREESTANDING, "-Wl,--export=__wasm_call_ctors"), pytest.param(tuple(REACTOR), marks=LIBRARY_BUILT)]
)
def test_constructors_run_once(tmp_path, flags):
    module = built(tmp_path, COUNTS, *flags)
    assert said(module, "a", "a") == [b"11", b"12"]
    assert not wasm.reconstructs(module.read_bytes())


def test_constructors_that_run_at_each_call_are_told_of(tmp_path, capsys, monkeypatch):
    module = built(tmp_path, COUNTS, *FREESTANDING)
    assert wasm.reconstructs(module.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--vendor", "example.com", "--broker", "mqtt://localhost:1", "--group", "g", "--no-passphrase"]) == 0
    assert main(["build", str(module)]) == 0
    assert "runs its constructors at each event: link it with -Wl,--export=__wasm_call_ctors" in capsys.readouterr().err


@LIBRARY_BUILT
def test_the_library_of_cpp_keeps_what_it_is_given(tmp_path):
    module = built(tmp_path, LIBRARY, *REACTOR, "-s")
    assert len(module.read_bytes()) < 60_000
    assert said(module, "a", "b", "a") == [b"1", b"1", b"2"]


def test_the_header_is_c_with_a_library_too(tmp_path):
    source = """#include "device_module.h"
#include <stdio.h>
static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    char text[20];
    (void)topic; (void)error;
    int size = snprintf(text, sizeof text, "%u", (unsigned)payload.size);
    return dm_publish(DM_TEXT("out/n"), dm_view(text, (size_t)size)) == DM_PUBLISHED;
}
DM_EVENTS(handle)
"""
    # -Os: zig makes the C library once for each kind of optimisation, and the scripts' engine needs that one.
    module = built(tmp_path, source, "-target", "wasm32-wasi", "-mexec-model=reactor", "-Os", "-Wl,-s", compiler="cc")
    assert said(module, "a") == [b"0"]
