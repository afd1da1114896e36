"""What a flasher makes of a board's answers: what does not fit before it changes anything, and how long it waits for a trial."""

import dataclasses
from types import SimpleNamespace

import pytest

from boards.definition import load_board
from boards.errors import BoardError
from boards.flash import SPARE_BYTES, Facts, Flasher
from boards.tarball import Tarball

PACKAGES = {"paho.mqtt": "2.1.0", "cbor2": "5.6.5", "cryptography": "43.0.0"}
FACTS = Facts(
    machine="aarch64",
    python=(3, 13, 5),
    bits=64,
    standard_missing=(),
    packages=PACKAGES,
    free_bytes=SPARE_BYTES,
    writable=True,
    time_s=0.0,
    manager="systemd",
    confirmed="",
    provisioned=False,
)


def checked(board="raspberry-pi-4", **changes):
    dataclasses.replace(FACTS, **changes).check(load_board(board), "/opt/wamr-ota")


def test_a_board_that_fits_is_taken():
    checked()
    checked("qemu-armv7", machine="armv7l", bits=32)
    checked("qemu-armv7", machine="aarch64", bits=32)  # a 32-bit system on a 64-bit processor
    checked("qemu-riscv64", machine="riscv64")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"machine": "armv7l", "bits": 32}, r"raspberry-pi-4 is a board with aarch64, this one is armv7l \(32 bits\)"),
        ({"bits": 32}, r"this one is aarch64 \(32 bits\)"),
        ({"machine": "x86_64"}, r"this one is x86_64"),
        ({"board": "qemu-armv7"}, r"qemu-armv7 is a board with armv7, this one is aarch64 \(64 bits\)"),
        ({"standard_missing": ("_sqlite3", "_ssl")}, r"not whole \(no _sqlite3, _ssl\): apt-get install python3"),
        ({"writable": False}, r"nothing can be written to /opt/wamr-ota on the board: name another folder with --base"),
        ({"free_bytes": SPARE_BYTES - 1}, r"23 MB free for /opt/wamr-ota, 24 MB are needed"),
        ({"manager": ""}, r"neither by systemd nor from /etc/inittab"),
    ],
)
def test_what_does_not_fit_is_said(changes, said):
    with pytest.raises(BoardError, match=said):
        checked(**changes)


def test_packages_are_sent_along_only_for_the_python_that_they_were_built_for():
    assert FACTS.lacking() == ()
    old = dataclasses.replace(FACTS, packages=PACKAGES | {"paho.mqtt": "1.6.1", "cbor2": ""})
    assert old.lacking() == ("paho.mqtt", "cbor2")
    with pytest.raises(
        BoardError, match=r"the board's Python 3\.11\.2 lacks paho\.mqtt 2\.1, cbor2 5\.6 or newer: install them with pip"
    ):
        dataclasses.replace(old, python=(3, 11, 2)).lacking()


class Trial:
    """A board on which an agent is on trial, and a clock: each look takes five seconds, in which the agent uses the processor."""

    def __init__(self, monkeypatch, used_s, reports_after_s):
        self.now, self.used_s, self.verbs, self._uses, self._after_s = 0.0, 0.0, [], used_s, reports_after_s
        monkeypatch.setattr("boards.flash.time", SimpleNamespace(monotonic=lambda: self.now))
        self.flasher = Flasher(None, None, None, None, self, None, trial_s=60.0)
        self.flasher.base = "/opt/wamr-ota"
        monkeypatch.setattr(self.flasher, "_again", lambda step: step())
        monkeypatch.setattr(self.flasher, "_verb", self._verb)

    def reported(self, device, agent, up_s, timeout_s):
        self.now += 5.0
        self.used_s += self._uses
        return self.now > self._after_s

    def _verb(self, name, *arguments):
        self.verbs.append(name)
        if name == "begin":
            self.limit_s = int(arguments[-1])
        return {"trial": "new", "confirmed": "old", "used_s": self.used_s, "said": "its last words"}

    def run(self):
        self.flasher._switch(Tarball("new", b""), "roof-1", provisioned=False)


def test_an_agent_that_is_busy_starting_is_waited_for_beyond_the_length_of_a_trial(monkeypatch):
    trial = Trial(monkeypatch, used_s=4.0, reports_after_s=120.0)
    trial.run()
    assert trial.verbs[-1] == "confirm"
    assert trial.limit_s == 180, "the launcher does not end it before the flasher does"


@pytest.mark.parametrize(("used_s", "given_up_s"), [(0.1, 50.0), (4.0, 170.0)], ids=["one that waits", "one that never stops"])
def test_an_agent_that_does_not_report_is_taken_back_with_what_it_said(monkeypatch, used_s, given_up_s):
    trial = Trial(monkeypatch, used_s, reports_after_s=1e9)
    with pytest.raises(BoardError, match=r"new did not report: old runs again\. The board's log ends:\n  its last words"):
        trial.run()
    assert trial.verbs[-1] == "revert"
    assert trial.now == given_up_s


class Bundled:
    """A board that runs the agent already, and installs what it is sent."""

    def __init__(self, monkeypatch, answer):
        self.sent, self.ran = {}, []
        self.flasher = Flasher(None, None, None, None, None, None, bundle=b"a bundle")
        self.flasher.base, self.flasher.config = "/opt/wamr-ota", "/opt/wamr-ota/etc"
        self.flasher._console = SimpleNamespace(sudo="", run=self.ran.append)
        monkeypatch.setattr(self.flasher, "_again", lambda step: step())
        monkeypatch.setattr(self.flasher, "_send", lambda path, content, digest: self.sent.update({path: content}))
        monkeypatch.setattr(self.flasher, "_verb", lambda name, *arguments: self.ran.append((name, *arguments)) or answer)


def test_a_bundle_is_sent_installed_and_removed(monkeypatch):
    board = Bundled(monkeypatch, {"answer": {"result": "confirmed"}, "why": ""})
    assert board.flasher._install() == {"result": "confirmed"}
    path = "/opt/wamr-ota/flashing/flashed.bundle"
    assert board.sent == {path: b"a bundle"}
    assert board.ran == [("install", "/opt/wamr-ota", "/opt/wamr-ota/etc", path), f"rm -f {path}"]


def test_a_bundle_that_the_agent_does_not_take_is_an_error_with_its_words(monkeypatch):
    board = Bundled(monkeypatch, {"answer": None, "why": "device-agent: disk-full: no room"})
    with pytest.raises(BoardError, match=r"the bundle was not installed:\n  device-agent: disk-full: no room"):
        board.flasher._install()
    board.flasher.bundle = b""
    assert board.flasher._install() is None
