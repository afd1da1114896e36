"""Worker processes and the supervisor: crash, hang, trap, swap, roll back; no event lost, the agent never taken down."""

import asyncio
import os
import sys
from dataclasses import replace

import pytest

from bench.memory import private_kb
from device_agent.channel import workers
from device_agent.channel.workers import Worker, WorkerFailed
from ota.formats.capabilities import Capabilities
from ota.formats.reasons import Reason
from tests.support.wat import OK, contract_module
from tests.support.worker_rig import BODY, COUNT, PUBLISH, Rig, counting, handed, spec, with_rig

# Of a worker's own. Before Python 3.12 there is no object whose references are not counted (docs/decisions/0022-shared-memory.md).
PRIVATE_KB = 2000 if sys.version_info >= (3, 12) else 3350
# Some milliseconds.
SPIN = """
  (func $spin (local i32)
    (loop (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 3000000)))))"""


@with_rig
async def test_events_are_handled_in_order(rig, tmp_path):
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})
    for _ in range(50):
        rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 50)
    assert rig.outcomes == [bytes((1, number)) for number in range(1, 51)]


@pytest.mark.skipif(
    "coverage" in sys.modules or os.sysconf("SC_PAGE_SIZE") != 4096, reason="memory is measured without coverage, in pages of 4 KB"
)
@with_rig
async def test_a_worker_that_handles_events_has_little_memory_of_its_own(rig, tmp_path):
    others = [await rig.worker(spec(tmp_path, counting(1))) for _ in range(3)]
    for worker in others:
        await worker.begin(b"", {})
        for _ in range(50):
            await worker.handle("t", b"payload")
    taken = [private_kb(worker.pid) for worker in others]
    for worker in others:
        worker.kill()
    assert max(taken) < PRIVATE_KB, taken


@with_rig
async def test_an_outcome_names_the_message_of_the_bus_that_caused_it(rig, tmp_path):
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})
    rig.supervisor.offer("t", b"", hops=2, bus_number=7)
    rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 2)
    assert rig.causes == [(0, 0), (2, 7), (0, 0)]  # the first is what the module said at its start
    assert rig.consumed == []


@with_rig
async def test_what_the_bus_kept_waits_for_the_module_and_is_let_go_of_if_that_does_not_want_it(rig, tmp_path):
    wanted = spec(tmp_path, counting(1))
    rig.supervisor.offer("t", b"", bus_number=7)
    rig.supervisor.offer("t", b"")  # of no bus: nobody is there who could want it
    narrow = Capabilities.parse({"messaging": {"publish": ["#"], "subscribe": ["other"]}}, "test")
    strange = replace(wanted, description=replace(wanted.description, capabilities=narrow))
    rig.supervisor.offer("other", b"", bus_number=8)
    await rig.supervisor.run(await rig.worker(strange), b"", {})
    await rig.until(lambda: len(rig.outcomes) == 1)
    assert rig.causes == [(0, 0), (0, 8)]
    assert rig.consumed == [7]


@with_rig
async def test_a_message_of_the_bus_that_is_refused_or_kills_twice_is_let_go_of(rig, tmp_path):
    refusing = contract_module("(if (i32.eqz (local.get $size)) (then unreachable)) (i32.const 16)")
    wanted = spec(tmp_path, refusing)

    async def again():
        await rig.supervisor.run(await rig.worker(wanted), b"", {})

    rig.repair = again
    await again()
    rig.supervisor.offer("t", b"refused", bus_number=1)
    rig.supervisor.offer("t", b"", bus_number=2)
    rig.supervisor.offer("t", b"refused", bus_number=3)
    await rig.until(lambda: rig.consumed == [1, 2, 3])
    await asyncio.gather(*rig.repairs)
    assert len(rig.failures) == 2


def rows_of(rig: Rig, worker: Worker) -> list[int]:
    """How many events the worker is given at once, from now on."""
    found, post = [], worker.post

    def noted(events):
        found.append(len(events))
        post(events)

    worker.post = noted
    return found


@with_rig
async def test_a_quick_module_has_some_events_before_it_and_each_has_its_outcome_in_order(rig, tmp_path):
    worker = await rig.worker(spec(tmp_path, counting(1)))
    rows = rows_of(rig, worker)
    await rig.supervisor.run(worker, b"", {})
    for number in range(200):
        rig.supervisor.offer("t", b"", bus_number=number + 1)
    await rig.until(lambda: len(rig.outcomes) == 200)
    assert rig.causes == [(0, number) for number in range(201)]
    assert rig.outcomes == [bytes((1, number)) for number in range(1, 201)]
    assert 1 < max(rows) <= workers.ROW
    assert sum(rows) == 200


@with_rig
async def test_a_module_that_takes_its_time_or_moves_something_in_the_world_gets_one_event_after_the_other(rig, tmp_path):
    quick = spec(tmp_path, counting(1))
    moving = Capabilities.parse({"messaging": {"publish": ["#"], "subscribe": ["#"]}, "gpio": {"outputs": ["gpiochip0:4"]}}, "test")
    once = replace(quick.description, capabilities=moving)
    assert not once.repeatable
    worker = await rig.worker(quick)
    worker.spec = replace(quick, description=once)
    rows = rows_of(rig, worker)
    await rig.supervisor.run(worker, b"", {})
    for _ in range(40):
        rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 40)
    assert rows == [1] * 40
    slow = await rig.worker(spec(tmp_path, contract_module("(call $spin) (i32.const 0)", more=SPIN)))
    rows = rows_of(rig, slow)
    await rig.supervisor.swap(slow, handed)
    for _ in range(12):
        rig.supervisor.offer("t", b"")
    await rig.until(lambda: rig.supervisor.handled == 12)
    assert max(rows) <= 2


@with_rig
async def test_a_quick_module_has_some_events_before_it_also_where_others_have_the_processor(rig, tmp_path):
    worker = await rig.worker(spec(tmp_path, counting(1)))
    rows, answered = rows_of(rig, worker), worker.answered

    async def late():
        await asyncio.sleep(0.006)
        return await answered()

    worker.answered = late
    await rig.supervisor.run(worker, b"", {})
    for _ in range(40):
        rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 40)
    assert max(rows) > 8


@pytest.mark.parametrize("bad", range(12))
def test_of_a_row_the_event_that_ends_the_worker_is_tried_again_and_no_other_is_handled_twice(tmp_path, bad):
    async def inside():
        rig = Rig()
        deadly, harmless = spec(tmp_path, counting(1)), spec(tmp_path, counting(2, trap="x"), "2")
        await rig.supervisor.run(await rig.worker(deadly), b"", {})
        rig.supervisor._row = workers.ROW

        async def again():
            await rig.supervisor.run(await rig.worker(harmless), b"", {})

        rig.repair = again
        for number in range(12):
            rig.supervisor.offer("t", b"t" if number == bad else b"", bus_number=number + 1)
        await rig.until(lambda: len(rig.outcomes) == 12)
        await asyncio.gather(*rig.repairs)
        await rig.close()
        return rig

    rig = asyncio.run(inside())
    assert [version for version, _ in rig.outcomes] == [1] * bad + [2] * (12 - bad)
    assert [number for _, number in rig.causes if number] == list(range(1, 13))
    assert [failure.reason for failure in rig.failures] == [Reason.TRAPPED]
    assert rig.supervisor.counters["events_handled"] == 12
    assert rig.consumed == []


@with_rig
async def test_each_event_of_a_row_has_the_whole_deadline(rig, tmp_path):
    worker = await rig.worker(spec(tmp_path, counting(1), deadline_ms=300))
    await rig.supervisor.run(worker, b"", {})
    rig.supervisor._row = workers.ROW
    for payload in (b"", b"", b"h", b""):
        rig.supervisor.offer("t", payload)
    await rig.until(lambda: rig.failures)
    assert rig.outcomes == [b"\1\1", b"\1\2"]
    assert rig.failures[0].reason is Reason.DEADLINE_EXCEEDED
    assert rig.supervisor.waiting == 2


@with_rig
async def test_a_swap_under_load_loses_no_event_and_keeps_the_state(rig, tmp_path):
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})
    new = await rig.worker(spec(tmp_path, counting(2), "2"))
    for number in range(200):
        rig.supervisor.offer("t", b"")
        if number == 100:
            swap = asyncio.create_task(rig.supervisor.swap(new, handed))
        await asyncio.sleep(0)
    await swap
    await rig.until(lambda: len(rig.outcomes) == 200)
    assert [count for _, count in rig.outcomes] == [number % 256 for number in range(1, 201)]
    versions = [version for version, _ in rig.outcomes]
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}
    assert rig.supervisor.last_gap_us > 0


@with_rig
async def test_a_trap_on_trial_rolls_back_and_the_old_module_gets_the_event(rig, tmp_path):
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1, trap="x"))), b"", {})
    rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 1)
    await rig.supervisor.swap(new := await rig.worker(spec(tmp_path, counting(2), "2")), handed)
    rig.repair = lambda: rig.supervisor.roll_back(new)
    for payload in (b"", b"t", b""):
        rig.supervisor.offer("t", payload)
    await rig.until(lambda: len(rig.outcomes) == 4)
    assert rig.outcomes == [b"\1\1", b"\2\2", b"\1\2", b"\1\3"]
    assert [failure.reason for failure in rig.failures] == [Reason.TRAPPED]
    assert rig.supervisor.counters["events_dropped"] == 0
    assert rig.trials_ended == [("2", False)]


@with_rig
async def test_an_old_worker_does_not_outlive_a_trial_after_which_another_one_was_started(rig, tmp_path):
    await rig.supervisor.run(old := await rig.worker(spec(tmp_path, counting(1))), b"", {})
    await rig.supervisor.swap(new := await rig.worker(spec(tmp_path, counting(2), "2")), handed)
    new.kill()
    await rig.supervisor.run(again := await rig.worker(spec(tmp_path, counting(1))), b"", {})
    assert not await rig.supervisor.roll_back(new)
    await old.ended()
    assert rig.supervisor.current is again
    assert rig.trials_ended == [("2", False)]


@with_rig
async def test_after_a_first_module_that_failed_no_event_waits_for_nobody(rig, tmp_path):
    await rig.supervisor.swap(new := await rig.worker(spec(tmp_path, counting(1))), handed)
    rig.repair = lambda: rig.supervisor.roll_back(new)
    for payload in (b"t", b"", b""):
        rig.supervisor.offer("t", payload)
    await rig.until(lambda: rig.repairs)
    await asyncio.gather(*rig.repairs)
    assert rig.supervisor.waiting == 0
    assert rig.supervisor.counters["events_dropped"] == 3


@with_rig
async def test_a_module_that_refuses_the_state_leaves_the_old_one_running(rig, tmp_path):
    refusing = contract_module(
        OK,
        more="""(func (export "device:module/state@0.1.0#save") (result i32) i32.const 72)
                (func (export "device:module/state@0.1.0#restore") (param i32 i32) (result i32) i32.const 16)""",
    )
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})
    with pytest.raises(WorkerFailed) as caught:
        await rig.supervisor.swap(await rig.worker(spec(tmp_path, refusing, "2")), handed)
    assert caught.value.reason is Reason.STATE_REFUSED
    assert rig.trials_ended == [("2", False)]
    rig.supervisor.offer("t", b"")
    await rig.until(lambda: rig.outcomes == [b"\1\1"])


@with_rig
async def test_what_each_event_took_is_counted_for_its_module(rig, tmp_path):
    await rig.supervisor.run(await rig.worker(spec(tmp_path, counting(1))), b"", {})
    for _ in range(50):
        rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 50)
    counters = rig.supervisor.module_counters
    assert (counters["events"], counters["host_calls"], counters["memory_bytes"]) == (50, 50, 65536)
    assert counters["time_us"] > 0
    await rig.supervisor.swap(await rig.worker(spec(tmp_path, counting(2), "2")), handed)
    rig.supervisor.offer("t", b"")
    await rig.until(lambda: len(rig.outcomes) == 51)
    assert (counters["events"], counters["host_calls"]) == (1, 1)


@with_rig
async def test_what_a_refused_event_and_one_that_trapped_took_is_counted_too(rig, tmp_path):
    body = """(call $publish (i32.const 100) (i32.const 3) (i32.const 200) (i32.const 2) (i32.const 80))
      (drop (memory.grow (i32.const 1))) (if (local.get $size) (then unreachable)) (i32.const 16)"""
    refusing = contract_module(body, PUBLISH, '(data (i32.const 100) "out")')
    await rig.supervisor.run(await rig.worker(spec(tmp_path, refusing)), b"", {})
    counters = rig.supervisor.module_counters
    rig.supervisor.offer("t", b"")
    await rig.until(lambda: rig.supervisor.counters["events_refused"] == 1)
    assert (counters["events"], counters["host_calls"], counters["memory_bytes"]) == (1, 1, 2 * 65536)
    took_us = counters["time_us"]
    assert took_us > 0
    rig.supervisor.offer("in/bad", b"x")
    await rig.until(lambda: rig.failures)
    assert (counters["events"], counters["host_calls"], counters["traps"]) == (2, 2, 1)
    assert counters["time_us"] > took_us
    assert str(rig.failures[0]).startswith("trapped: with an event on in/bad in hand: ")


TICK = f"""(func (export "device:module/timer@0.1.0#tick") (param i64) (result i32) (call $spin) {OK})"""


@with_rig
async def test_a_module_whose_ticks_take_longer_than_their_period_has_its_events_all_the_same(rig, tmp_path):
    """A slow board: as soon as a tick has ended the next one is due."""
    body, data = BODY.format(version=1, trap=ord("t"), hang=ord("h")), '(data (i32.const 100) "out")'
    slow = contract_module(body, PUBLISH, data, COUNT + SPIN + TICK)
    await rig.supervisor.run(await rig.worker(spec(tmp_path, slow, tick_ms=1, deadline_ms=60_000)), b"", {})
    for _ in range(3):
        rig.supervisor.offer("in", b"")
    await rig.until(lambda: len(rig.outcomes) == 3)
    assert rig.supervisor.counters["events_handled"] == 3
