"""An agent that updates itself over the air on emulated boards, from the agent that their image came with."""

import os
import random
import time
import zipfile

import pytest

from boards.tarball import make_tarball
from ota.author.agent import prepare_agent
from ota.formats.deployment import AGENT
from tests.conftest import ROOT
from tests.support.board_lab import BoardLab
from tests.support.signing import VENDOR
from tests.support.wheels import built_wheel

PARTS, CUTS = 4, 5  # each part is some minutes on an idle machine, and a run of its own
pytestmark = [pytest.mark.timeout(3600), pytest.mark.emulated, pytest.mark.full]
BROKEN = (ROOT / "device_agent/node/config.py").read_text() + "def load(path): raise ConfigError('no such settings')\n"


class Updates:
    """Agents for a board, each a wheel of the sources with another version."""

    def __init__(self, lab, folder):
        self.lab, self.folder = lab, folder
        self.wheel = built_wheel(lab.board.board.processor.target)

    def publish(self, version, change=None):
        """Deploys an agent; returns its name and the deployment's identifier."""
        made = make_tarball(self._wheel(version, change or {}))
        file = self.folder / f"{made.name}.tar.gz"
        file.write_bytes(made.content)
        self.lab.signer.sequence += 1
        update = prepare_agent(file, VENDOR).signed(self.lab.signer.sequence, self.lab.signer.keys["release"])
        return made.name, self.lab.deploy(update, instance=AGENT)

    def _wheel(self, version, change):
        changed = self.folder / self.wheel.name.replace("-0.1.0-", f"-{version}-")
        with zipfile.ZipFile(self.wheel) as source, zipfile.ZipFile(changed, "w") as target:
            for name in source.namelist():
                target.writestr(name, change.get(name, source.read(name)))
        return changed


@pytest.fixture(scope="module", params=["aarch64", "armv7", "riscv64"])
def lab(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    opened = BoardLab(folder, f"qemu-{request.param}", proc=0.1, extra="")
    opened.updates = Updates(opened, folder)
    try:
        opened.start()
        opened.install(1)
    except Exception:
        print(opened.log()[-3000:])
        opened.close()
        raise
    yield opened
    opened.close()


def confirmed(lab, name, deployment):
    report = lab.wait_state("confirmed", deployment=deployment, instance=AGENT)
    assert report.running.version == name
    lab.observer.wait(lambda: lab.report.agent == name, lab.patience_s, "the new agent's report")
    lab.still_answers(1)


def test_an_image_gets_a_new_agent_and_one_that_does_not_work_gives_way_to_it(lab):
    assert lab.report.agent.endswith("+image")
    first = max(lab.observer.messages)
    name, deployment = lab.updates.publish("0.2.0")
    confirmed(lab, name, deployment)
    numbers = [each for each in sorted(lab.observer.messages) if each >= first]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "a message was lost over the restart"
    _, deployment = lab.updates.publish("0.3.0", {"device_agent/node/config.py": BROKEN})
    report = lab.wait_state("rolled-back", deployment=deployment, instance=AGENT)
    assert report.attempt.reason == "agent-failed"
    assert "no such settings" in report.attempt.detail
    lab.observer.wait(lambda: lab.report.agent == name, lab.patience_s, "the agent before")
    lab.still_answers(1)


@pytest.mark.parametrize("part", range(PARTS))
def test_power_cuts_at_random_moments_of_an_agents_update_leave_an_agent_that_runs(lab, part):
    seed = int(os.environ.get("WAMR_OTA_SEED", time.time_ns() % 2**32))
    lab.chance = chance = random.Random(seed)
    try:
        began = time.monotonic()
        confirmed(lab, *lab.updates.publish(f"0.4.{part}"))
        takes_s = time.monotonic() - began
        for number in range(CUTS):
            name, deployment = lab.updates.publish(f"0.5.{CUTS * part + number}")
            time.sleep(chance.uniform(0, takes_s))
            lab.kill()
            lab.start()
            confirmed(lab, name, deployment)
    except BaseException as error:
        error.add_note(f"seed {seed}, {lab.lost_pages} pages lost; the console ends:\n{lab.log()[-3000:]}")
        raise
