"""Ten instances, of which one traps for ever, one hangs and one floods: the others handle every event that is theirs."""

from collections import Counter

import pytest

from ota.formats.module import Limits
from tests.support.lab import PUBLISH, echo
from tests.support.wat import contract_module

GOOD = tuple(f"good-{number}" for number in range(7))
EVENTS = 150
WORK = {"messaging": {"subscribe": ["in/work"], "publish": ["out/#", "flood/#"]}}
TRAPS = contract_module("unreachable (i32.const 0)")
HANGS = contract_module("(loop (br 0)) (i32.const 0)")
_SAY = "(call $publish (i32.const 100) (i32.const 9) (i32.const 200) (i32.const 1) (i32.const 80))"
_TICK = f"""(func (export "device:module/timer@0.1.0#tick") (param i64) (result i32) (local $n i32)
    (loop $again {_SAY} (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 100)))) (i32.const 0))"""
# The broker has what it says; this process, which has no time for that, does not subscribe to it.
FLOODS = contract_module("(i32.const 0)", PUBLISH, '(data (i32.const 100) "flood/now")', _TICK)


@pytest.fixture
def ten(lab):
    """All of them run and are confirmed: no event came during their trials."""
    lab.settings["proc"] = 0
    lab.start()
    limits = Limits(memory_pages=2, deadline_ms=300)
    flood = Limits(memory_pages=2, deadline_ms=1000, tick_ms=20, messages_per_s=2000)
    wanted = {name: lab.signer.update(echo(1), name="echo", capabilities=WORK, limits=limits) for name in GOOD}
    wanted["traps"] = lab.signer.update(TRAPS, name="traps", capabilities=WORK, limits=limits)
    wanted["hangs"] = lab.signer.update(HANGS, name="hangs", capabilities=WORK, limits=limits)
    wanted["floods"] = lab.signer.update(FLOODS, name="floods", capabilities=WORK, limits=flood)
    for name, update in wanted.items():
        lab.wait_state("confirmed", deployment=lab.deploy(update, name), instance=name)
    return lab


def test_neighbours_that_trap_hang_and_flood_cost_no_other_instance_an_event(ten):
    for number in range(EVENTS):
        ten.observer.publish("in/work", number.to_bytes(2))

    def answers() -> Counter[str]:
        return Counter(each.instance for each in list(ten.observer.messages.values()) if each.topic == "out/echo")

    all_answers = dict.fromkeys(GOOD, EVENTS)
    ten.observer.wait(lambda: answers() == all_answers, ten.patience_s, "an answer to every event")
    ten.observer.wait(lambda: ten.of("traps").counters.get("failures", 0) >= 5, ten.patience_s, "a module that traps on")
    ten.observer.wait(lambda: ten.report.counters.get("messages_delivered", 0) > 2 * len(GOOD) * EVENTS, ten.patience_s, "a flood")
    ten.observer.wait(lambda: ten.of("hangs").counters.get("failures", 0) >= 2, ten.patience_s, "a module that hangs on")
    for name in GOOD:
        counters = ten.of(name).counters
        assert counters.get("events_dropped", 0) == counters.get("failures", 0) == counters.get("restarts", 0) == 0
        assert ten.of(name).running.slot == "confirmed"
