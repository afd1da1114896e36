"""What a module costs that was taken out of a component, beside the module that the component was made of."""

from dataclasses import replace
from pathlib import Path

from bench.measure import Row, alternate, per_call_ns
from device_agent.sandbox.contract import ModuleHost
from ota.author.build import describe
from ota.formats import wasm
from ota.formats.loadable import core_module
from tests.support.component import component

MODULE = Path("build/modules/tally.wasm")
EVENTS = 2000


def measure(rounds: int) -> list[Row]:
    """An event that reads a key, writes it and publishes."""
    given = MODULE.read_bytes()
    hosts = [_host(code) for code in (core_module(component(given)), given)]
    try:
        calls = [per_call_ns(lambda host=host: host.handle("sys/load", b"1"), EVENTS) for host in hosts]
        taken, bare = (min(side) / 1000 for side in alternate(rounds * 3, *calls))
    finally:
        for host in hosts:
            host.close()
    return [Row("unbundled_event_us", taken, "us", "the module that the component was made of", bare)]


def _host(code: bytes) -> ModuleHost:
    said = describe(MODULE, wasm.read(code))
    return ModuleHost(code, replace(said, limits=replace(said.limits, messages_per_s=1_000_000)), {}, lambda *_: None)
