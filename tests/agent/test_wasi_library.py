"""What the C library makes of the capability `wasi`: a program that opens, lists, renames and prints, as it would anywhere."""

import os
from pathlib import Path

import pytest

from device_agent.sandbox.wasi import Wasi
from pywamr import Runtime
from tests.support.guest_c import zig_cc


@pytest.fixture(scope="module")
def program():
    flags = ("-target", "wasm32-wasi", "-mexec-model=reactor", "-O1", "-Wall")
    return zig_cc(Path(__file__).with_name("library.c"), *flags)


@pytest.mark.full  # the C library is built first
def test_the_c_library_finds_what_it_needs(program, tmp_path):
    logged = []
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with Runtime() as runtime:
        wasi = Wasi(
            lambda at, size: instance.memory.read(at & 0xFFFFFFFF, size),
            lambda at, content: instance.memory.write(at & 0xFFFFFFFF, content),
            lambda *each: logged.append(each),
            (("/data", folder, True),),
            quota_bytes=1 << 20,
        )
        instance = runtime.load(program).instantiate({"wasi_snapshot_preview1": wasi.functions()})
        instance.call("_initialize")
        assert divmod(instance.call("files"), 1000) == (0, 0)  # the line that failed, and errno
        assert list(tmp_path.iterdir()) == []
        assert instance.call("say") == 1
        assert logged == [("info", "a line")]
        wasi.end_lines()
        assert logged == [("info", "a line"), ("info", "half")]
    os.close(folder)
