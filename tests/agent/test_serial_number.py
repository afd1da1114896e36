"""Boards of a production line are named by their serial numbers."""

import pytest

from device_agent.node.config import ConfigError, load
from device_agent.node.serial_number import serial_number

REST = 'group = "lab"\n[storage]\nfolder = "s"\n[trust]\nroot = "r"\n'


def put(root, name, content):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/device-tree/serial-number": b"100000003d1f2a7c\0"}, "100000003d1f2a7c"),
        (
            {"sys/class/dmi/id/product_serial": b"To Be Filled By O.E.M.\n", "sys/class/dmi/id/board_serial": b"A/1 3\n"},
            "A-1-3",
        ),
        ({"proc/cpuinfo": b"processor\t: 0\nSerial\t\t: 00000000deadbeef\nModel\t: x\n"}, "00000000deadbeef"),
        ({"proc/cpuinfo": b"Serial\t\t: 0000000000000000\n"}, ""),
        (
            {
                "sys/class/net/eth0/address": b"dc:a6:32:01:02:03\n",
                "sys/class/net/eth0/addr_assign_type": b"0\n",
                "sys/class/net/eth0/device/uevent": b"",
            },
            "dca632010203",
        ),
        ({"sys/class/net/eth0/address": b"dc:a6:32:01:02:03\n", "sys/class/net/eth0/addr_assign_type": b"1\n"}, ""),
        ({}, ""),
    ],
)
def test_the_serial_number_is_what_the_hardware_says(tmp_path, files, expected):
    for name, content in files.items():
        put(tmp_path, name, content)
    assert serial_number(tmp_path) == expected


def test_the_name_of_a_board_has_its_serial_number_in_it(tmp_path):
    (tmp_path / "serial").write_text("a7\n")
    (tmp_path / "agent.toml").write_text('[device]\nid = "pump-{serial}"\nserial_file = "serial"\n' + REST)
    assert load(tmp_path / "agent.toml").device == "pump-a7"


@pytest.mark.parametrize(("serial", "message"), [("0000\n", "has no serial number"), ("x" * 80, "is no name of 1 to 64")])
def test_a_board_without_a_serial_number_that_makes_a_name_says_so(tmp_path, serial, message):
    (tmp_path / "serial").write_text(serial)
    (tmp_path / "agent.toml").write_text('[device]\nid = "pump-{serial}"\nserial_file = "serial"\n' + REST)
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "agent.toml")
