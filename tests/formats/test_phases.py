"""Which boards an entry includes: named ones, and a share of the others."""

from dataclasses import replace

from ota.formats.deployment import FRACTION_ALL, Entry

ENTRY = Entry(bytes(32), bytes(16), 0)
DEVICES = [f"device-{number}" for number in range(2000)]
NAMED = ("device-1", "device-2")


def included(ppm: int, *boards: str) -> set[str]:
    return {device for device in DEVICES if replace(ENTRY, fraction_ppm=ppm, boards=boards).includes(device)}


def test_named_boards_alone_are_a_fraction_of_nothing():
    assert included(0) == set()
    assert included(0, *NAMED) == set(NAMED)


def test_boards_that_were_named_first_stay_in_a_fraction_that_widens():
    assert included(100_000, *NAMED) == included(100_000) | set(NAMED)
    assert included(100_000, *NAMED) < included(500_000, *NAMED)
    assert included(FRACTION_ALL, *NAMED) == set(DEVICES)
