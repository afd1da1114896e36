"""Emulated boards as fixtures: booted once for each architecture, and from a snapshot after that."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.board_lab import SnapshotLab


@pytest.fixture(scope="session")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], SnapshotLab]]:
    """A board of an architecture that has booted and reported, as a snapshot."""
    made: dict[str, SnapshotLab] = {}

    def one(architecture: str) -> SnapshotLab:
        if architecture not in made:
            folder: Path = tmp_path_factory.mktemp(f"board-{architecture}")
            made[architecture] = SnapshotLab(folder, f"qemu-{architecture}")
            made[architecture].boot()
        return made[architecture]

    yield one
    for lab in made.values():
        lab.close()


@pytest.fixture
def board(booted: Callable[[str], SnapshotLab]) -> Iterator[Callable[[str], SnapshotLab]]:
    """`board("riscv64")`: a running board with an agent that has reported to an empty broker, in seconds."""
    used: list[SnapshotLab] = []

    def one(architecture: str) -> SnapshotLab:
        lab = booted(architecture)
        used.append(lab)
        lab.wake()
        return lab

    yield one
    for lab in used:
        lab.sleep()
