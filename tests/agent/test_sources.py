"""Sources: what happens on the board becomes events, whatever breaks is tried again. Real ptys, FIFOs, files and sockets."""

import asyncio
import contextlib
import logging
import os
import socket
import stat
import sys
import time
import tty
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.sources import source as running
from device_agent.sources.kinds import parse
from device_agent.sources.proc import Readings, readings
from device_agent.sources.records import Records, pump
from device_agent.sources.source import Sink, keep_running
from tests.conftest import ROOT

PATIENCE_S = 60.0


class Running:
    """A source that is kept running, and what it has offered."""

    def __init__(self, name, table):
        self.counters = Counter()
        self._queue = asyncio.Queue()
        self._task = asyncio.ensure_future(
            keep_running(name, parse(name, table), lambda *event: self._queue.put_nowait(event), self.counters)
        )

    async def next(self):
        async with asyncio.timeout(PATIENCE_S):
            return await self._queue.get()

    async def until(self, true):
        async with asyncio.timeout(PATIENCE_S):
            while not true():
                await asyncio.sleep(0.01)

    @property
    def waiting(self):
        return self._queue.qsize()

    async def stop(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@contextlib.asynccontextmanager
async def kept(name, **table):
    source = Running(name, table)
    try:
        yield source
    finally:
        await source.stop()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(running, "RETRY_MAX_S", 0.05)
    monkeypatch.setattr(running, "RETRY_MIN_S", 0.05)


def pty():
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    return ours, theirs, os.ttyname(theirs)


def test_lines_of_a_serial_port_are_events_and_what_is_too_long_is_dropped_and_counted():
    async def run():
        ours, theirs, path = pty()
        async with kept("gps", kind="serial", port=f"{path}:9600", delimiter="\r\n", record_bytes=20) as source:
            await source.until(lambda: _has_settings_of_ours(theirs))
            os.write(ours, b"$GPGGA,1\r\n$GP")
            assert await source.next() == ("sys/gps", b"$GPGGA,1")
            os.write(ours, b"GGA,2\r\n\r\n" + b"x" * 3000 + b"\r")
            assert await source.next() == ("sys/gps", b"$GPGGA,2")
            os.write(ours, b"\nlast\r\n")
            assert await source.next() == ("sys/gps", b"last")
            assert source.counters == {"source_records_dropped": 1}
        os.close(ours)
        os.close(theirs)

    asyncio.run(run())


def _has_settings_of_ours(descriptor):
    import termios

    return termios.tcgetattr(descriptor)[4] == termios.B9600


def test_a_serial_port_that_vanishes_is_opened_again_when_it_is_back(caplog):
    async def run():
        ours, theirs, path = pty()
        name = Path(f"/dev/wamr-ota-test-{os.getpid()}")
        name.symlink_to(path)
        try:
            async with kept("line", kind="serial", port=f"{name}:9600", topic="sys/scale") as source:
                await source.until(lambda: _has_settings_of_ours(theirs))
                os.write(ours, b"1\n")
                assert await source.next() == ("sys/scale", b"1")
                os.close(theirs)
                os.close(ours)
                await source.until(lambda: source.counters["source_failures"] >= 3)
                ours, theirs, path = pty()
                name.unlink()
                name.symlink_to(path)
                await source.until(lambda: _has_settings_of_ours(theirs))
                os.write(ours, b"2\n")
                assert await source.next() == ("sys/scale", b"2")
        finally:
            name.unlink()
        os.close(ours)
        os.close(theirs)

    if os.geteuid() != 0:
        pytest.skip("only root can make a name below /dev")
    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    said = [each.getMessage() for each in caplog.records]
    assert len(said) == len(set(said))
    assert any("source line: " in each for each in said)


def test_a_port_that_a_module_or_another_program_holds_is_not_shared():
    serial = pytest.importorskip("serial")

    async def run():
        ours, theirs, path = pty()
        with serial.Serial(path, 9600, exclusive=True):
            async with kept("line", kind="serial", port=f"{path}:9600") as source:
                await source.until(lambda: source.counters["source_failures"] >= 2)
        os.close(ours)
        os.close(theirs)

    asyncio.run(run())


def test_a_board_without_pyserial_says_so_once(monkeypatch, caplog):
    async def run():
        async with kept("line", kind="serial", port="/dev/ttyS0:9600") as source:
            await source.until(lambda: source.counters["source_failures"] >= 3)

    monkeypatch.setitem(sys.modules, "serial", None)
    asyncio.run(run())
    assert [each.getMessage() for each in caplog.records] == [
        "source line: serial port /dev/ttyS0:9600: pyserial is not installed on this board: tried again until it works"
    ]


def test_edges_of_a_gpio_line_are_events_and_those_that_the_kernel_lost_are_counted(tmp_path, monkeypatch):
    async def run():
        level = os.open(tmp_path / "gpiochip0.7", os.O_RDWR)
        async with kept("door", kind="gpio", line="gpiochip0:7") as source:
            os.write(level, b"10")
            assert await source.next() == ("sys/door", b"1 1000000")
            assert await source.next() == ("sys/door", b"0 2000000")
            os.write(level, b"??1")
            assert await source.next() == ("sys/door", b"1 5000000")
            assert source.counters == {"source_records_dropped": 2}
        async with kept("meter", kind="gpio", line="gpiochip0:7", edge="falling", bias="pull-up", debounce_ms=5) as source:
            os.write(level, b"1010")
            assert [await source.next() for _ in range(2)] == [("sys/meter", b"0 1000000"), ("sys/meter", b"0 2000000")]
        async with kept("none", kind="gpio", line="gpiochip0:8") as source:
            await source.until(lambda: source.counters["source_failures"] >= 2)
        os.close(level)

    os.mkfifo(tmp_path / "gpiochip0.7")
    monkeypatch.setenv("WAMR_OTA_LINES", str(tmp_path))
    monkeypatch.syspath_prepend(ROOT / "tests" / "support" / "lines")
    monkeypatch.delitem(sys.modules, "gpiod", raising=False)
    asyncio.run(run())
    sys.modules.pop("gpiod", None)


SIMULATOR = Path("/sys/kernel/config/gpio-sim")


@pytest.mark.skipif(not SIMULATOR.is_dir(), reason="the kernel has no simulated GPIO chips: CONFIG_GPIO_SIM, and configfs mounted")
def test_edges_of_a_line_that_the_kernel_simulates_are_events():
    pytest.importorskip("gpiod", reason="libgpiod's Python package (gpiod 2) is not installed")
    chip = SIMULATOR / "wamr-ota-test"
    (chip / "bank").mkdir(parents=True)
    try:
        (chip / "bank" / "num_lines").write_text("2")
        (chip / "live").write_text("1")
        name, device = (chip / "bank" / "chip_name").read_text().strip(), (chip / "dev_name").read_text().strip()
        pull = Path(f"/sys/devices/platform/{device}/{name}/sim_gpio1/pull")

        async def run():
            async with kept("door", kind="gpio", line=f"{name}:1") as source:
                seen = []
                while len(seen) < 2:  # edges before the line was requested are nobody's
                    for each in ("pull-up", "pull-down"):
                        pull.write_text(each)
                        await asyncio.sleep(0.05)
                    seen += [await source.next() for _ in range(source.waiting)]
                assert [topic for topic, _ in seen[:2]] == ["sys/door"] * 2
                assert sorted(content[:2] for _, content in seen[:2]) == [b"0 ", b"1 "]

        asyncio.run(run())
    finally:
        (chip / "live").write_text("0")
        (chip / "bank").rmdir()
        chip.rmdir()


def test_a_fifo_brings_records_of_many_writers_that_come_and_go(tmp_path):
    async def run():
        path = tmp_path / "commands"
        os.mkfifo(path)
        async with kept("commands", kind="file", path=str(path), record_bytes=8) as source:
            for number in range(20):
                await asyncio.to_thread(path.write_bytes, b"%d\nand" % number)
                assert await source.next() == ("sys/commands", b"%d" % number)
                assert await source.next() == ("sys/commands", b"and")  # its end ends the record
            await asyncio.to_thread(path.write_bytes, b"much too long\nok\nmuch too long")
            assert await source.next() == ("sys/commands", b"ok")
            await source.until(lambda: source.counters == {"source_records_dropped": 2})

    asyncio.run(run())


def test_a_fifo_without_a_delimiter_brings_what_each_writer_wrote(tmp_path):
    async def run():
        path = tmp_path / "commands"
        os.mkfifo(path)
        async with kept("commands", kind="file", path=str(path), delimiter="") as source:
            for each in (b"a\nb\n", b"c"):
                await asyncio.to_thread(path.write_bytes, each)
                assert await source.next() == ("sys/commands", each)

    asyncio.run(run())


def test_a_fifo_that_is_replaced_or_not_there_yet_is_opened_when_it_is(tmp_path):
    async def run():
        path = tmp_path / "commands"
        async with kept("commands", kind="file", path=str(path), period_s=0.05) as source:
            await source.until(lambda: source.counters["source_failures"] >= 1)
            for each in (b"1", b"2"):
                os.mkfifo(tmp_path / "new")
                (tmp_path / "new").replace(path)
                await asyncio.to_thread(path.write_bytes, each)
                assert await source.next() == ("sys/commands", each)

    asyncio.run(run())


def test_a_file_is_offered_when_its_content_has_changed_and_not_again(tmp_path):
    async def run():
        path = tmp_path / "state"
        path.write_text("open")
        async with kept("state", kind="file", path=str(path), delimiter="", period_s=0.05) as source:
            assert await source.next() == ("sys/state", b"open")
            path.touch()
            for text in ("shut", "open"):
                (tmp_path / "new").write_text(text)
                (tmp_path / "new").replace(path)
                assert await source.next() == ("sys/state", text.encode())
            path.write_bytes(bytes(70_000))
            await source.until(lambda: source.counters["source_failures"] >= 1)
            path.write_text("back")
            while (content := (await source.next())[1]) == b"":
                pass
            assert content == b"back"

    asyncio.run(run())


def test_what_is_neither_a_file_nor_a_fifo_is_said(tmp_path, caplog):
    async def run():
        async with kept("state", kind="file", path=str(tmp_path)) as source:
            await source.until(lambda: source.counters["source_failures"] >= 1)

    asyncio.run(run())
    assert "neither a file nor a FIFO" in caplog.text


def test_each_datagram_is_one_event_and_the_mode_of_the_file_says_who_may_send(tmp_path):
    async def run():
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
            left.bind(str(path))  # by an agent that was killed
        async with kept("app", kind="datagram", path=str(path), mode="0620", record_bytes=10) as source:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                await source.until(lambda: _connects(sender, path))
                assert stat.S_IMODE(path.stat().st_mode) == 0o620
                for payload in (b"one\n", b"", b"x" * 11, b"y" * 10):
                    sender.send(payload)
                assert [await source.next() for _ in range(3)] == [("sys/app", b"one\n"), ("sys/app", b""), ("sys/app", b"y" * 10)]
                assert source.counters == {"source_records_dropped": 1}
        assert not path.exists()

    asyncio.run(run())


def _connects(sender, path):
    try:
        sender.connect(str(path))
    except OSError:
        return False
    return True


def test_a_socket_of_another_program_and_a_file_that_is_none_stay_where_they_are(tmp_path, caplog):
    async def run():
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(path))
            async with kept("app", kind="datagram", path=str(path)) as source:
                await source.until(lambda: source.counters["source_failures"] >= 2)
            assert path.is_socket()
        (tmp_path / "text").write_text("mine")
        async with kept("app", kind="datagram", path=str(tmp_path / "text")) as source:
            await source.until(lambda: source.counters["source_failures"] >= 1)
        assert (tmp_path / "text").read_text() == "mine"

    asyncio.run(run())
    assert "belongs to another program" in caplog.text
    assert "is no socket" in caplog.text


def test_a_socket_whose_file_was_removed_is_made_again(tmp_path, monkeypatch):
    async def run():
        path = tmp_path / "socket"
        async with kept("app", kind="datagram", path=str(path)) as source:
            await source.until(path.exists)
            path.unlink()
            await source.until(path.exists)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                await source.until(lambda: _connects(sender, path))
                sender.send(b"again")
            assert await source.next() == ("sys/app", b"again")

    monkeypatch.setattr("device_agent.sources.datagram.LOOK_S", 0.05)
    asyncio.run(run())


def test_a_writer_that_floods_waits_and_loses_nothing(tmp_path, monkeypatch):
    async def run():
        path = tmp_path / "flood"
        os.mkfifo(path)
        async with kept("flood", kind="file", path=str(path)) as source:
            written = asyncio.ensure_future(asyncio.to_thread(path.write_bytes, b"x\n" * 200))
            seen = 0
            while seen < 200:
                assert (await source.next())[1] == b"x"
                seen += 1
            await written
            assert source.counters == {}
            sleeps.append(0)
        assert len(sleeps) > 1

    sleeps = []
    real = asyncio.sleep

    async def sleep(seconds):
        sleeps.append(seconds)
        await real(0)

    monkeypatch.setattr(running, "EVENTS_PER_S", 100.0)
    monkeypatch.setattr(running.asyncio, "sleep", sleep)
    asyncio.run(run())


@pytest.mark.parametrize(
    ("content", "events"), [(b"\n" * 4096, 0), (b"x" * 4096, 0), (b"x\n" * 100, 100)], ids=["blank", "too long", "good"]
)
def test_what_brings_no_event_is_paced_like_what_brings_some(content, events, monkeypatch):
    async def run():
        reader, writer = os.pipe()
        records, sink = Records(b"\n", 1000), Sink(lambda topic, payload: None, Counter())
        try:
            for _ in range(200):
                os.write(writer, content)
                await pump(reader, records, "sys/x", sink)
        finally:
            os.close(reader)
            os.close(writer)
        assert sink.count == 200 * events

    slept = paced(monkeypatch)
    asyncio.run(run())
    assert slept


def test_datagrams_that_are_too_long_are_paced_and_large_ones_count_for_what_they_have(tmp_path, monkeypatch):
    async def run(size):
        path = str(tmp_path / "socket")
        async with kept("app", kind="datagram", path=path, record_bytes=40_000) as source:
            await source.until(lambda: os.path.exists(path))  # noqa: PTH110
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                for _ in range(20):
                    await asyncio.to_thread(sender.sendto, b"x" * size, path)
            await source.until(lambda: source.counters["source_records_dropped"] + source.waiting == 20)

    slept = paced(monkeypatch)
    asyncio.run(run(10))
    assert not slept
    for size in (40_000, 60_000):
        slept.clear()
        asyncio.run(run(size))
        assert slept


def paced(monkeypatch):
    """How long sources have waited, in seconds; they don't, and so many events a second that a test soon has too many."""
    slept, real = [], asyncio.sleep

    async def sleep(seconds):
        if seconds != 0.01:
            slept.append(seconds)
        await real(0)

    monkeypatch.setattr(running, "EVENTS_PER_S", 100.0)
    monkeypatch.setattr(running.asyncio, "sleep", sleep)
    return slept


def test_readings_of_the_board_come_again_and_again_and_what_it_lacks_is_left_out(tmp_path):
    async def run():
        async with kept("readings", kind="proc", period_s=0.01) as source:
            topics = [(await source.next())[0] for _ in range(8)]
        assert topics.count("sys/loadavg") >= 2

    asyncio.run(run())
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "loadavg").write_text("0.1")
    assert readings(tmp_path) == [("sys/loadavg", b"0.1")]


def test_a_reading_that_its_driver_is_slow_to_give_holds_up_nothing_else(tmp_path):
    slow, found = tmp_path / "proc/loadavg", []
    slow.parent.mkdir()
    os.mkfifo(slow)  # to open it waits for who writes

    async def run():
        source = asyncio.ensure_future(Readings(60.0, tmp_path).run(Sink(lambda *event: found.append(event), Counter())))
        await asyncio.sleep(0.05)
        with contextlib.closing(slow.open("w")) as writer:  # this is the loop
            writer.write("0.1")
        async with asyncio.timeout(PATIENCE_S):
            while not found:
                await asyncio.sleep(0.01)
        source.cancel()

    asyncio.run(run())
    assert found == [("sys/loadavg", b"0.1")]


def test_whatever_a_driver_raises_the_agent_goes_on(caplog):
    class Broken:
        devices = frozenset()

        async def run(self, sink):
            await sink.put("sys/x", b"")
            raise TypeError("of a driver")

    async def run():
        counters, seen = Counter(), []
        task = asyncio.ensure_future(keep_running("x", Broken(), lambda *event: seen.append(event), counters))
        end = time.monotonic() + PATIENCE_S
        while len(seen) < 3 and time.monotonic() < end:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert seen[:3] == [("sys/x", b"")] * 3

    asyncio.run(run())
    assert [each.getMessage() for each in caplog.records] == ["source x: of a driver: tried again until it works"]


@given(
    st.lists(st.sampled_from([b"a", b"b", b"\n", b"ab", b"aab\n"]), max_size=40), st.sampled_from([b"\n", b"ab", b"aab"]), st.data()
)
def test_records_are_the_same_however_the_bytes_arrive(pieces, delimiter, data):
    content, limit = b"".join(pieces), data.draw(st.integers(1, 10))
    whole = content.split(delimiter)
    records, found = Records(delimiter, limit), []
    while content:
        size = data.draw(st.integers(1, len(content)))
        found += records.feed(content[:size])
        content = content[size:]
    found += records.finish()
    assert found == [each for each in whole if 0 < len(each) <= limit]
    assert records.take_dropped() == sum(len(each) > limit for each in whole)
    assert records.take_dropped() == 0
