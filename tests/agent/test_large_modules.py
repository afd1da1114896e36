"""A module of any size that may be published loads where it will run: in a confined worker, with its limit of memory."""

import asyncio

import pytest

from device_agent.channel.workers import Worker
from ota.formats.chunks import BLOB_LIMIT_BYTES
from ota.formats.wasm import sections
from tests.agent.test_workers import spec
from tests.support.wat import OK, contract_module


def number(value: int) -> bytes:
    """LEB128."""
    low, rest = value & 0x7F, value >> 7
    return bytes((low,)) if not rest else bytes((low | 0x80,)) + number(rest)


def large(megabytes: int) -> bytes:
    """A module with so much code that is never called."""
    body = b"\0" + b"\x41\0\x1a" * 10_920 + b"\x0b"
    functions, code = megabytes * 32, number(len(body)) + body
    made = b"\0asm\x01\0\0\0"
    for kind, _, _, content in sections(contract_module(OK, "", "", "")):
        if kind == 1:
            types, content = content[0], number(content[0] + 1) + content[1:] + b"\x60\0\0"
        elif kind == 3:
            content = number(content[0] + functions) + content[1:] + number(types) * functions
        elif kind == 10:
            content = number(content[0] + functions) + content[1:] + code * functions
        if kind:
            made += bytes((kind,)) + number(len(content)) + content
    return made


@pytest.mark.parametrize("megabytes", [24, pytest.param(63, marks=pytest.mark.full)])
def test_a_large_module_loads_in_its_worker(tmp_path, megabytes):
    wasm = large(megabytes)
    assert 0.98 * (megabytes << 20) < len(wasm) <= BLOB_LIMIT_BYTES

    async def inside() -> None:
        worker = Worker(spec(tmp_path, wasm), lambda *_: None)
        await worker.start()
        worker.kill()
        await worker.ended()

    asyncio.run(inside())
