"""Settings of sources: what is wrong is named, and what the reference shows works."""

import re
import tomllib

import pytest

from device_agent.sources.kinds import KINDS, SOURCES, parse, parse_all
from device_agent.sources.source import SourceError
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "sources.x.kind is missing: it must be one of proc, serial, gpio, file, datagram"),
        ({"kind": "radio"}, "sources.x.kind must be one of proc"),
        ({"kind": "proc", "port": "x"}, "there is no setting sources.x.port"),
        ({"kind": "proc", "period_s": 0}, "sources.x.period_s must be a number from 0.01 to 86400"),
        ({"kind": "proc", "period_s": True}, "sources.x.period_s must be a number"),
        ({"kind": "serial"}, "sources.x.port is missing"),
        ({"kind": "serial", "port": "ttyS0"}, "sources.x.port must be a port with its baud rate"),
        ({"kind": "serial", "port": "/dev/ttyS0:9600", "delimiter": ""}, "sources.x.delimiter must be 1 to 16 characters"),
        ({"kind": "serial", "port": "/dev/ttyS0:9600", "delimiter": "→"}, "sources.x.delimiter must be 1 to 16 characters"),
        (
            {"kind": "serial", "port": "/dev/ttyS0:9600", "record_bytes": 100_000},
            "sources.x.record_bytes must be a number from 1 to 65536",
        ),
        ({"kind": "serial", "port": "/dev/ttyS0:9600", "topic": "local/x"}, "sources.x.topic must be a topic below sys/"),
        ({"kind": "serial", "port": "/dev/ttyS0:9600", "topic": "sys/#"}, "sources.x.topic must be a topic below sys/"),
        ({"kind": "gpio", "line": "17"}, "sources.x.line must be a line such as gpiochip0:17"),
        ({"kind": "gpio", "line": "gpiochip0:17", "edge": "up"}, 'sources.x.edge must be "both"'),
        ({"kind": "gpio", "line": "gpiochip0:17", "bias": "up"}, 'sources.x.bias must be "as-is"'),
        ({"kind": "file", "path": "state"}, "sources.x.path must be an absolute path"),
        ({"kind": "datagram", "path": "/run/x", "mode": "999"}, "sources.x.mode must be an octal mode"),
        ({"kind": "datagram", "path": "/" + "x" * 108}, "sources.x.path must be an absolute path of at most 101 characters"),
        ("proc", "sources.x must be a section"),
    ],
)
def test_a_wrong_setting_is_named(table, message):
    with pytest.raises(SourceError, match=message.replace("(", r"\(")):
        parse("x", table)


def test_two_sources_never_hold_one_device_and_there_are_not_too_many():
    serial, other = {"kind": "serial", "port": "/dev/ttyS0:9600"}, {"kind": "serial", "port": "/dev/ttyS0:115200"}
    with pytest.raises(SourceError, match=r"sources\.b and sources\.a both hold /dev/ttyS0"):
        parse_all({"a": serial, "b": other})
    with pytest.raises(SourceError, match="33 sections, the limit is 32"):
        parse_all({f"s{number}": {"kind": "proc"} for number in range(SOURCES + 1)})
    with pytest.raises(SourceError, match="must be sections"):
        parse_all(5)
    assert set(parse_all({"a": serial, "b": {"kind": "gpio", "line": "gpiochip0:3"}})["b"].devices) == {"/dev/gpiochip0:3"}


def test_every_kind_can_be_made_from_what_the_reference_shows():
    text = (ROOT / "docs" / "reference" / "sources.md").read_text()
    tables = {}
    for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL):
        tables |= tomllib.loads(block)["sources"]
    assert {each["kind"] for each in tables.values()} == set(KINDS)
    parse_all(tables)
