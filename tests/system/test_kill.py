"""`kill -9` of agent or worker at random moments during updates. Afterwards the board runs a confirmed module, and the next
publish succeeds.
"""

import os
import random
import signal
import time

import pytest

from device_agent.instance.states import Phase
from device_agent.storage import floors
from device_agent.storage.store import Store
from tests.support.lab import Lab, echo
from tests.support.rumqttd import Rumqttd
from tests.support.signing import INSTANCE
from tests.system.test_updates import workers

MANY = [pytest.param(100, number, marks=pytest.mark.full) for number in range(1, 11)]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("kills", "number"), [(6, 0), *MANY])
def test_kills_at_random_moments_never_lose_a_board(tmp_path, kills, number):
    seed = int(os.environ.get("WAMR_OTA_SEED", time.time_ns() % 2**32))
    chance = random.Random(seed)
    broker = Rumqttd(tmp_path)
    broker.start()
    lab = Lab(tmp_path, broker, trial=0.15, retry=0.5)
    done = 0
    try:
        lab.start()
        version = 1
        lab.install(version)
        while done < kills:
            version = version % 250 + 1
            update = lab.signer.update(echo(version, padding=chance.choice((0, 20_000))), name="echo", version=f"{version}.0.0")
            deployment = lab.deploy(update)
            for _ in range(chance.randint(1, 3)):
                time.sleep(chance.uniform(0, 0.4))
                victims = workers(lab) if chance.random() < 0.3 else []
                if victims:
                    os.kill(chance.choice(victims), signal.SIGKILL)
                else:
                    lab.kill()
                    check_at_rest(lab)
                    lab.start()
                done += 1
            report = lab.wait_state("confirmed", "rolled-back", "failed", deployment=deployment)
            if report.attempt.state != "confirmed":  # the trial was cut short by the kills: a fault of theirs, told as such
                assert report.attempt.reason in ("trial-interrupted", "crashed", "start-failed"), report.attempt
        lab.install(251)
        lab.still_answers(251)
    except BaseException as error:
        error.add_note(f"seed {seed}, {done} kills; the agent's log ends:\n{lab.log()[-3000:]}")
        raise
    finally:
        lab.close()
    assert done >= kills


def check_at_rest(lab: Lab) -> None:
    """What lies on disk after a kill: a whole journal, and a confirmed module that is there in one piece."""
    store = Store(lab.folder / "store")
    try:
        assert store.journal_is_whole()
        slot = store.slots(INSTANCE)["confirmed"]
        assert store.envelope(slot.envelope) is not None
        assert store.last_update(INSTANCE).phase in Phase
        assert store.module_floor(floors.SEQUENCE, "echo", lab.signer.root().roles["release"].keys).value == slot.sequence
    finally:
        store.close()
