"""How modules are read, byte by byte: sections, imports of every kind, and what is bounded."""

import pytest

from ota.formats import loadable, wasm
from ota.formats.capabilities import WASI_MODULE
from ota.formats.loadable import core_module, written_out
from ota.formats.reasons import Reason, Refused
from ota.formats.wasm import COMPONENT_MAGIC, MODULE_MAGIC, Import, Reader


def refusal(function, *values) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values)
    return caught.value


def leb(value: int) -> bytes:
    return bytes((value,)) if value < 0x80 else bytes((value & 0x7F | 0x80,)) + leb(value >> 7)


def named(text: str) -> bytes:
    return leb(len(text.encode())) + text.encode()


def section(kind: int, content: bytes) -> bytes:
    return bytes((kind,)) + leb(len(content)) + content


def module(*sections: bytes) -> bytes:
    return MODULE_MAGIC + b"".join(sections)


def custom(name: str, content: bytes) -> bytes:
    return section(0, named(name) + content)


def imports(*found: bytes) -> bytes:
    return section(2, leb(len(found)) + b"".join(found))


FUNCTION = named("m") + named("f") + b"\0\0"


# -- shapes


def test_the_shape_of_a_module_is_its_functions_exports_and_memory():
    whole = module(
        imports(FUNCTION, named("m") + named("g") + b"\0\x81\1"),
        section(5, b"\1\0\3"),
        section(7, b"\2" + named("run") + b"\0\0" + named("memory") + b"\2\0"),
    )
    assert wasm.read(whole) == wasm.ModuleShape((("m", "f"), ("m", "g")), ("run", "memory"), 3)
    assert wasm.read(module()) == wasm.ModuleShape((), ())
    assert wasm.read(module(section(5, b"\1\1\x81\1\7"))).memory_pages == 129
    assert wasm.read(module(section(5, b"\0"))).memory_pages == 0


NONE, MAGIC = "module: not a WebAssembly core module", wasm.MODULE_MAGIC.hex(" ")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (COMPONENT_MAGIC, f"module: {wasm.COMPONENT}"),
        (COMPONENT_MAGIC + bytes(20), f"module: {wasm.COMPONENT}"),
        (b"\0asm\2\0\0\0" + bytes(20), f"{NONE}: it begins with 00 61 73 6d 02 00 00 00, and a module with {MAGIC}"),
        (b"", f"{NONE}: it is empty"),
        (b"\t(module)", f"{NONE}: it is WebAssembly text, of which `wat2wasm FILE -o MODULE.wasm` makes a module"),
        (b"\x08(module)", f"{NONE}: it begins with 08 28 6d 6f 64 75 6c 65, and a module with {MAGIC}"),
        ("# ü".encode(), f"{NONE}: it begins with 23 20 c3 bc, and a module with {MAGIC}"),
        (b"fn main() {}" * 9 + b"\0", f"{NONE}: it is text, and a compiler makes a .wasm of a source"),
        (module(b"\1"), "module: it ends too early"),
        (module(b"\1\5\0\0\0\0"), "module: a section ends behind the file"),
        (module(b"\1\xff\xff\xff\xff\xff\0"), "module: a number of more than 32 bits"),
        (module(section(7, leb(100_001))), "module: 100001 items in a section, the limit is 100000"),
        (module(section(7, leb(100_000))), "module: it ends too early"),
        (module(section(7, b"\1\5run")), "module: it ends too early"),
        (module(section(7, b"\1\1\xff\0\0")), "module: a name that is not UTF-8"),
        (module(section(0, b"\5abc")), "module: it ends too early"),
        (module(imports(named("m") + named("f") + b"\5")), "module: an import of kind 5"),
    ],
)
def test_what_is_no_module_is_refused_by_what_is_wrong(data, why):
    error = refusal(wasm.read, data)
    assert (error.reason, error.detail) == (Reason.MALFORMED, why)


@pytest.mark.parametrize(
    ("described", "what"),
    [
        (b"\1\x70\0\1", "a table, which boards do not hand over: link without --import-table"),
        (b"\2\0\1", "a memory, which boards do not hand over: link without --import-memory"),
        (b"\3\x7f\0", "a global, which boards do not hand over: link statically, without -shared and -pie"),
        (b"\4\0\0", "a tag, which boards do not hand over: build without exceptions"),
    ],
)
def test_an_import_that_is_no_function_is_refused_with_what_helps(described, what):
    error = refusal(wasm.read, module(imports(named("env") + named("x") + described)))
    assert (error.reason, error.detail) == (Reason.MODULE_INVALID, f"import env.x is not a function but {what}")


# -- numbers


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (b"\0", 0),
        (b"\x7f", 127),
        (b"\x80\1", 128),
        (b"\x80\0", 0),
        (b"\xff\xff\xff\xff\x0f", (1 << 32) - 1),
        (b"\x81\x80\x80\x80\0", 1),
    ],
)
def test_a_number_has_at_most_five_bytes(data, number):
    reader = Reader(data + b"\x55", 0)
    assert (reader.number(), reader.at) == (number, len(data))
    assert refusal(Reader(b"\x80" * 5 + b"\0", 0).number).detail == "module: a number of more than 32 bits"
    assert refusal(Reader(b"\x80" * 4, 0).number).detail == "module: it ends too early"


def test_nothing_is_read_behind_the_end():
    assert Reader(b"ab", 1).byte() == ord("b")
    assert refusal(Reader(b"ab", 1, 1).byte).detail == "module: it ends too early"
    assert Reader(b"\2abc", 0, 3).name() == "ab"
    assert refusal(Reader(b"\2abc", 0, 2).name).detail == "module: it ends too early"


# -- imports


@pytest.mark.parametrize(
    ("kind", "described"),
    [
        (0, b"\5"),
        (0, b"\x80\1"),
        (1, b"\x70\0\1"),
        (1, b"\x70\1\1\2"),
        (1, b"\x63\x80\0\0\1"),  # a table of typed references
        (1, b"\x64\0\1\1\2"),
        (2, b"\0\1"),
        (2, b"\1\1\2"),
        (2, b"\4\1"),  # of 64 bits
        (2, b"\5\1\2"),
        (2, b"\x08\1\0"),  # with a page size of its own
        (2, b"\x09\1\2\0"),
        (2, b"\4" + b"\x80" * 9 + b"\1"),
        (3, b"\x7f\1"),
        (3, b"\x63\x70\0"),
        (4, b"\0\x80\1"),
    ],
)
def test_an_import_is_read_to_its_end_whatever_it_is(kind, described):
    reader = Reader(b"\2" + named("m") + named("a") + bytes((kind,)) + described + FUNCTION, 0)
    assert list(reader.imports()) == [Import("m", "a", kind, described), Import("m", "f", 0, b"\0")]
    assert not reader.compact


def test_a_number_of_limits_has_at_most_ten_bytes():
    data = b"\1" + named("m") + named("a") + b"\2\4" + b"\x80" * 10 + b"\0"
    assert refusal(lambda: list(Reader(data, 0).imports())).detail == "module: a number of more than 64 bits"


def test_compact_imports_share_a_module_or_a_type_too():
    of_a_module = named("m") + b"\0\x7f\2" + named("a") + b"\0\7" + named("b") + b"\2\0\1"
    of_a_type = named("n") + b"\0\x7e\0\x09\2" + named("c") + named("d")
    reader = Reader(b"\3" + of_a_module + of_a_type + FUNCTION, 0)
    assert list(reader.imports()) == [
        Import("m", "a", 0, b"\7"),
        Import("m", "b", 2, b"\0\1"),
        Import("n", "c", 0, b"\x09"),
        Import("n", "d", 0, b"\x09"),
        Import("m", "f", 0, b"\0"),
    ]
    assert reader.compact


def test_compact_imports_count_together(monkeypatch):
    monkeypatch.setattr(wasm, "MAX_ITEMS", 3)
    two = named("m") + b"\0\x7e\0\0\2" + named("a") + named("b")
    assert len(list(Reader(b"\2" + two + FUNCTION, 0).imports())) == 3
    assert refusal(lambda: list(Reader(b"\2" + two + two, 0).imports())).detail == "module: more than 3 imports"


# -- custom sections


def producers(count: int) -> bytes:
    return custom("producers", b"\1" + named("language") + leb(count) + (named("C11") + named("")) * count)


def test_producers_are_read_up_to_256():
    fields = b"\2" + named("language") + b"\1" + named("Rust") + named("1.80")
    fields += named("sdk") + b"\2" + named("a") + named("") + named("b") + named("2")
    data = module(custom("other", b"\xff"), custom("producers", fields))
    assert wasm.producers(data) == (("language", "Rust", "1.80"), ("sdk", "a", ""), ("sdk", "b", "2"))
    assert wasm.producers(module()) == ()
    assert wasm.producers(module(producers(256))) == (("language", "C11", ""),) * 256
    assert refusal(wasm.producers, module(producers(257))).detail == "module: its section producers has more than 256 entries"
    half = custom("producers", b"\1" + named("sdk") + b"\1" + b"\4a")  # its name would end in the next section
    assert refusal(wasm.producers, module(half, custom("other", bytes(20)))).detail == "module: it ends too early"


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [("name", b"..run.command_export..", True), ("name", b"..run..", False), ("names", b"..run.command_export..", False)],
)
def test_a_module_whose_constructors_run_at_each_call_shows_it_by_its_names(name, content, found):
    assert wasm.reconstructs(module(custom(name, content))) is found


# -- what is written out


def test_what_is_no_module_comes_back_as_it_is():
    for data in (b"", b"garbage", b"\0asm\2\0\0\0\xff", module(imports(FUNCTION)), module(b"\1\0", imports(FUNCTION), b"\3\0")):
        assert core_module(data) is data


@pytest.mark.parametrize("size", [1, 127, 128, 129, 255, 256, 16_383, 16_384])
def test_names_of_any_length_are_written_out_as_they_were(size):
    name = "x" * size
    older = named("wasi_unstable") + named("proc_exit") + b"\0\0"
    data = module(b"\1\0", imports(older, named(name) + named("f") + b"\0\x80\1"), b"\3\0", custom("end", b"kept"))
    out = written_out(data)
    assert wasm.read(out).imports == ((WASI_MODULE, "proc_exit"), (name, "f"))
    newer = named(WASI_MODULE) + named("proc_exit") + b"\0\0"
    assert out == module(b"\1\0", imports(newer, named(name) + named("f") + b"\0\x80\1"), b"\3\0", custom("end", b"kept"))


def test_imports_that_are_written_out_have_a_limit(monkeypatch):
    assert (loadable.MAX_IMPORTS_BYTES, wasm.CODE) == (1 << 20, 10)
    older = named("wasi_unstable") + named("proc_exit") + b"\0\0"
    size = len(named(WASI_MODULE) + named("proc_exit") + b"\0\0")
    monkeypatch.setattr(loadable, "MAX_IMPORTS_BYTES", size)
    assert wasm.read(written_out(module(imports(older)))).imports == ((WASI_MODULE, "proc_exit"),)
    monkeypatch.setattr(loadable, "MAX_IMPORTS_BYTES", size - 1)
    error = refusal(written_out, module(imports(older)))
    assert (error.reason, error.detail) == (Reason.MALFORMED, f"module: its imports have more than {size - 1} bytes, written out")
