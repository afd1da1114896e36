"""What is kept in the cache is right, whoever makes it at the same moment, and whatever was killed or damaged before."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ota import durable
from ota.author import engine as engines
from ota.author import kept as cache
from ota.author.kept import kept
from tests.conftest import ROOT

MAKER = """
import sys, time
from pathlib import Path
from ota.author.kept import kept

told = Path(sys.argv[1])

def make(folder):
    assert list(folder.iterdir()) == []
    (folder / "half").write_bytes(b"half")
    with told.open("a") as file:
        file.write("made\\n")
    while sys.argv[2] == "wait":
        time.sleep(0.1)
    time.sleep(0.2)
    return b"engine" * 1000

assert kept("engine-1", make) == b"engine" * 1000
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WAMR_OTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def maker(told: Path, how: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", MAKER, str(told), how], cwd=ROOT)


def test_processes_that_want_the_same_make_it_once(tmp_path, folder):
    told = tmp_path / "told"
    together = [maker(told, "go") for _ in range(5)]
    assert [each.wait(120) for each in together] == [0] * 5
    assert told.read_text() == "made\n"
    assert [each.name for each in folder.iterdir()] == ["engine-1"]


def test_one_that_was_killed_in_the_middle_leaves_nothing_that_is_used(tmp_path, folder):
    told = tmp_path / "told"
    killed = maker(told, "wait")
    deadline = time.monotonic() + 120
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    waiting = maker(told, "go")
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    assert waiting.wait(120) == 0
    assert told.read_text() == "made\nmade\n"
    assert [each.name for each in folder.iterdir()] == ["engine-1"]


def test_the_folder_to_work_in_may_go_at_any_moment(folder, monkeypatch):
    """Another process that has just ended removes it between a look and the next."""
    (folder / ".engine-1.work").mkdir(parents=True)
    mkdir = os.mkdir

    def gone_since(path, *mode):
        try:
            mkdir(path, *mode)
        except FileExistsError:
            if Path(path).name == ".engine-1.work":
                Path(path).rmdir()
            raise

    monkeypatch.setattr(os, "mkdir", gone_since)
    assert kept("engine-1", lambda work: b"engine") == b"engine"


def broken(content: bytes, how: str) -> bytes:
    return {
        "cut": content[:-1],
        "empty": b"",
        "digest only": content[-32:],
        "bit": b"\x01" + content[1:],
        "zeros": bytes(len(content)),
    }[how]


@pytest.mark.parametrize("how", ["cut", "empty", "digest only", "bit", "zeros"])
def test_a_damaged_file_is_made_anew(folder, capfd, how):
    kept("engine-1", lambda work: b"\x02good")
    path = folder / "engine-1"
    path.write_bytes(broken(path.read_bytes(), how))
    assert kept("engine-1", lambda work: b"\x02good") == b"\x02good"
    assert f"{path} is damaged: it is made anew" in capfd.readouterr().err
    assert kept("engine-1", lambda work: pytest.fail("it is there")) == b"\x02good"


def test_a_folder_that_an_earlier_version_has_left_in_its_place_is_replaced(folder):
    (folder / "engine-1").mkdir(parents=True)
    (folder / "engine-1" / "part.o").write_bytes(b"part")
    assert kept("engine-1", lambda work: b"engine") == b"engine"
    assert kept("engine-1", lambda work: b"another") == b"engine"


def test_what_could_not_be_made_is_tried_again(folder):
    with pytest.raises(FileNotFoundError):
        kept("engine-1", lambda work: (work / "none").read_bytes())
    assert list(folder.iterdir()) == []
    assert kept("engine-1", lambda work: b"good") == b"good"


def test_what_nobody_asked_for_in_a_long_time_is_removed(folder):
    for name in ("engine-old", "engine-used", "image-old"):
        kept(name, lambda work: b"x")
        os.utime(folder / name, (0, 0))
    kept("engine-used", lambda work: b"x")
    kept("engine-new", lambda work: b"x")
    assert sorted(each.name for each in folder.iterdir()) == ["engine-new", "engine-used", "image-old"]


def test_a_cache_that_may_not_be_written_is_read(folder, monkeypatch):
    kept("engine-1", lambda work: b"good")
    monkeypatch.setattr(cache.os, "utime", lambda path: (_ for _ in ()).throw(PermissionError))
    assert kept("engine-1", lambda work: pytest.fail("it is there")) == b"good"


def test_a_damaged_engine_is_linked_anew(folder, monkeypatch):
    monkeypatch.setenv("WAMR_OTA_CACHE", str(ROOT / "build" / "cache"))
    whole = engines.engine(["logging"])
    monkeypatch.setenv("WAMR_OTA_CACHE", str(folder))
    shutil.copytree(
        ROOT / "build" / "cache", folder, ignore=lambda _, names: [n for n in names if not n.startswith(("java", "quick"))]
    )
    for each in folder.glob("javascript-*"):
        each.write_bytes(each.read_bytes()[:1000])
    assert engines.engine(["logging"]) == whole


def test_a_folder_named_from_here_is_the_same_for_compilers_elsewhere(monkeypatch):
    monkeypatch.setenv("WAMR_OTA_CACHE", "somewhere")
    assert cache.cache_folder() == Path.cwd() / "somewhere"


def test_two_who_replace_a_file_at_the_same_moment_both_succeed(tmp_path, monkeypatch):
    path = tmp_path / "module.wasm"
    second = threading.Thread(target=durable.write_durably, args=(path, b"second"))
    sync = os.fsync

    def begin_second(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        second.start()
        second.join(1)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", begin_second)
    durable.write_durably(path, b"first")
    second.join(60)
    assert path.read_bytes() == b"second"
    assert [each.name for each in tmp_path.iterdir()] == ["module.wasm"]
