"""An agent that updates itself over the air, on this machine: its launcher, a broker, good agents, bad ones, and power cuts."""

import dataclasses
import functools
import os
import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from boards.onboard import versions
from ota.author.agent import prepare_agent
from ota.formats import bundle, topics
from ota.formats.deployment import AGENT
from ota.formats.module import Limits
from ota.formats.window import Window
from ota.operator.publish import artifacts
from tests.conftest import ROOT
from tests.support.agents import host_tarball
from tests.support.air import AirLab
from tests.support.lab import GROUP, Mosquitto, echo, open_lab
from tests.support.relay import relay
from tests.support.rumqttd import Rumqttd
from tests.support.signing import INSTANCE, VENDOR


@pytest.fixture
def lab(tmp_path):
    broker = Rumqttd(tmp_path)
    broker.start()
    opened = AirLab(tmp_path, broker)
    try:
        yield opened
    except BaseException:
        print(opened.log()[-5000:])
        raise
    finally:
        if (tmp_path / "agent.log").exists():
            print(opened.log()[-6000:])
        opened.close()


def numbers(lab):
    return sorted(lab.observer.messages)


def test_an_agent_is_replaced_by_a_newer_one_and_its_module_goes_on(lab):
    lab.start()
    lab.install(1)
    lab.still_answers(1)
    made = lab.tarball("0.2.0")
    report = lab.wait_agent("confirmed", deployment=lab.publish_agent(made))
    assert report.running.version == made.name
    assert report.running.slot == "confirmed"
    assert lab.confirmed == made.name
    lab.observer.wait(lambda: lab.report.agent == made.name, lab.patience_s, "the new agent in the board's report")
    lab.still_answers(1)
    found = numbers(lab)
    assert found == list(range(found[0], found[0] + len(found))), "a message was lost over the restart"


COMMANDS = {"logging": {}, "messaging": {"subscribe": ["in/command"], "publish": ["out/#"]}}


def test_commands_sent_while_an_agent_is_replaced_reach_its_module(tmp_path):
    """On a broker that keeps sessions."""
    if Mosquitto.command() is None:
        pytest.skip("mosquitto is not installed")
    broker = Mosquitto(tmp_path)
    broker.start()
    lab = AirLab(tmp_path, broker, proc=0)
    try:
        lab.start()
        update = lab.signer.update(relay("out/answer"), capabilities=COMMANDS)
        lab.wait_state("confirmed", deployment=lab.deploy(update))
        deployment, sent = lab.publish_agent(lab.tarball("0.2.0")), 0
        while not (found := lab.of(AGENT)) or found.attempt.deployment != deployment or found.attempt.state != "confirmed":
            assert sent < 6000, "the agent is not confirmed"
            lab.observer.publish("in/command", str(sent).encode())
            sent += 1
            time.sleep(0.02)
        lab.observer.wait(lambda: len(answers(lab)) >= sent, lab.patience_s, f"an answer to each of {sent} commands")
        assert answers(lab) == list(range(sent))
    finally:
        print(lab.log()[-6000:])
        lab.close()


def answers(lab):
    """What the module has said of its commands, in order; what it was told twice, once."""
    return list(dict.fromkeys(int(each.payload) for _, each in sorted(lab.observer.messages.items())))


NO_WAY = """import socket
def refuse(*_):
    raise OSError("no way")
socket.socket.connect = refuse
"""
LOAD = (ROOT / "device_agent/node/config.py").read_text()
BROKEN = {
    "cannot be imported": (
        {"device_agent/node/service.py": "raise OSError('no such instruction')\n"},
        "OSError: no such instruction",
    ),
    "ends before it begins": (
        {"device_agent/__main__.py": "raise SystemExit('no such settings')\n"},
        "not ready to begin: no such",
    ),
    "hangs before it begins": (
        {"device_agent/__main__.py": "import time\ntime.sleep(1000)\n"},
        "and said nothing",
    ),
    "ends": ({"device_agent/node/config.py": LOAD + "def load(path): raise ConfigError('no such settings')\n"}, "no such settings"),
    "dies": ({"device_agent/node/config.py": LOAD + "def load(path): import os; os.kill(os.getpid(), 9)\n"}, "it ended"),
    "hangs": (
        {"device_agent/node/config.py": LOAD + "def load(path): import time; time.sleep(1000)\n"},
        "did not confirm itself within 8 s",
    ),
    "never gets online": (
        {"device_agent/broker/__init__.py": NO_WAY},
        "it waited for a connection to the broker",
    ),
}


QUICK = ("cannot be imported", "ends")


@pytest.mark.parametrize("how", [each if each in QUICK else pytest.param(each, marks=pytest.mark.full) for each in BROKEN])
def test_an_agent_that_does_not_work_gives_way_to_the_one_before_which_says_why(tmp_path, how):
    change, why = BROKEN[how]
    broker = Rumqttd(tmp_path)
    broker.start()
    lab = AirLab(tmp_path, broker, agent_trial=8)
    lab.patience_s *= 3  # one that never gets online is tried three times
    try:
        lab.start()
        lab.install(1)
        made = lab.tarball("0.2.0", change)
        report = lab.wait_agent("rolled-back", "failed", deployment=lab.publish_agent(made))
        assert report.attempt.reason == "agent-failed"
        assert why in report.attempt.detail
        lab.observer.wait(lambda: lab.report.agent == lab.first.name, lab.patience_s, "the old agent")
        lab.still_answers(1)
        assert lab.confirmed == lab.first.name
    finally:
        print(lab.log()[-6000:])
        lab.close()


def ended(lab, update, **changes):
    """Deploys an agent that is no update for this board; what the board says of it."""
    report = lab.wait_agent("rejected", "failed", deployment=lab.deploy(update, instance=AGENT, **changes))
    assert lab.confirmed == lab.first.name
    return report.attempt


def test_what_is_no_agent_for_this_board_is_refused_before_it_is_fetched_or_started(lab):
    lab.start()
    lab.install(1)
    made = lab.tarball("0.2.0")
    good = lab.agent_update(made)
    other = dataclasses.replace(
        good.manifest.agent, platform=dataclasses.replace(good.manifest.agent.platform, architecture="riscv64")
    )
    attempt = ended(lab, lab.signed_agent(good, agent=other))
    assert attempt.reason == "class-mismatch"
    assert "riscv64" in attempt.detail
    assert attempt.chunks == 0
    newer = dataclasses.replace(good.manifest.agent, platform=dataclasses.replace(good.manifest.agent.platform, python="py399"))
    assert ended(lab, lab.signed_agent(good, agent=newer)).reason == "class-mismatch"
    no_way_back = dataclasses.replace(good.manifest.agent, schema=99, readable_by=99)
    assert ended(lab, lab.signed_agent(good, agent=no_way_back)).reason == "schema-mismatch"
    another = dataclasses.replace(good.manifest.agent, version="9.9.9+another")
    attempt = ended(lab, lab.signed_agent(good, agent=another))
    assert attempt.reason == "agent-invalid"
    assert "the tarball says version '0.2.0+" in attempt.detail
    module = lab.signer.update(echo(2), name="echo", version="2.0.0")
    assert ended(lab, module).reason == "command-unsupported"
    lab.deploy(good, instance=INSTANCE)
    lab.wait_state("rejected")
    assert lab.of(INSTANCE).attempt.reason == "command-unsupported"
    lab.still_answers(1)


@pytest.mark.full
def test_an_older_agent_than_was_confirmed_is_refused(lab):
    lab.start()
    old = lab.agent_update(lab.tarball("0.1.5"))
    made = lab.tarball("0.2.0")
    lab.wait_agent("confirmed", deployment=lab.publish_agent(made))
    report = lab.wait_agent("rejected", deployment=lab.deploy(old, instance=AGENT))
    assert report.attempt.reason == "sequence-too-old"
    assert report.running.version == made.name


@pytest.mark.full
def test_an_agent_that_came_over_the_air_brings_the_next_one_and_is_gone_back_to(lab):
    """Its launcher is still its parent then."""
    lab.start()
    lab.install(1)
    second, third = lab.tarball("0.2.0"), lab.tarball("0.3.0")
    lab.wait_agent("confirmed", deployment=lab.publish_agent(second))
    lab.wait_agent("confirmed", deployment=lab.publish_agent(third))
    lab.still_answers(1)
    broken = lab.tarball("0.4.0", BROKEN["ends"][0])
    report = lab.wait_agent("rolled-back", deployment=lab.publish_agent(broken))
    assert "no such settings" in report.attempt.detail
    assert report.running.version == third.name
    lab.still_answers(1)


@pytest.mark.full
def test_a_board_that_starts_offline_updates_its_agent_from_what_it_has_and_confirms_it_offline(lab):
    """The link is as good as before: there was none. One that has lost its link waits for it (test_own_agent.py)."""
    lab.settings["extra"] = "[clock]\ntrusted = true\n"
    lab.start()
    lab.install(1)
    update = lab.agent_update(lab.tarball("0.2.0"))
    opens = datetime.now(UTC) + timedelta(minutes=2)  # it waits, staged, so that the broker can go meanwhile
    minute = opens.hour * 60 + opens.minute
    window = Window(frozenset(range(7)), minute, 60, utc=True)
    deployment = lab.deploy(update, instance=AGENT, window=window)
    lab.wait_agent("staged", deployment=deployment)
    lab.kill()
    lab.broker.stop()
    lab.switch_on()
    end = time.monotonic() + 240
    while lab.confirmed != update.manifest.version:
        assert time.monotonic() < end, lab.log()[-2000:]
        time.sleep(0.5)
    lab.broker.start()
    report = lab.wait_agent("confirmed", deployment=deployment)
    assert report.running.version == update.manifest.version
    lab.still_answers(1)


@pytest.mark.full
def test_a_link_that_is_down_during_a_whole_trial_ends_no_update(tmp_path):
    """The agent before runs again, without a link at first, waits for it, and lets the new one try again."""
    broker = Mosquitto(tmp_path)
    broker.start()
    lab = AirLab(tmp_path, broker, agent_trial=12)
    try:
        lab.start()
        lab.install(1)
        made = lab.tarball("0.2.0")
        deployment = lab.publish_agent(made)
        until(lambda: versions.pointer(lab.base / "trial") == made.name, lab)
        broker.stop()
        until(lambda: (lab.base / "trial.failed").exists(), lab)
        assert "it waited for a connection to the broker" in (lab.base / "trial.failed").read_text()
        time.sleep(1)  # of the agent before, which has no link and must not take that for what is usual
        broker.start()
        assert lab.wait_agent("confirmed", deployment=deployment).running.version == made.name
        lab.still_answers(1)
    finally:
        print(lab.log()[-6000:])
        lab.close()


def until(there, lab):
    end = time.monotonic() + 240
    while not there():
        assert time.monotonic() < end, lab.log()[-2000:]
        time.sleep(0.05)


@pytest.mark.full
def test_a_module_on_its_first_trial_is_not_expected_of_a_new_agent(lab):
    """Nothing of it is confirmed, and its trial begins again only when that of the agent is over."""
    lab.start()
    lab.install(1)
    silent = Limits(memory_pages=4, deadline_ms=2000, trial_events=1_000_000)
    first = lab.deploy(lab.signer.update(echo(2), name="second", limits=silent), instance="second")
    lab.wait_state("trial", deployment=first, instance="second")
    lab.wait_agent("confirmed", deployment=lab.publish_agent(lab.tarball("0.2.0")))
    lab.wait_state("trial", deployment=first, instance="second")


@pytest.mark.full
def test_a_module_that_the_settings_of_now_forbid_is_not_expected_of_a_new_agent(lab):
    """The policy was narrowed while the old agent ran, so under no agent would the module be started again."""
    lab.start()
    lab.install(1)
    second = lab.deploy(lab.signer.update(echo(2), name="second"), instance="second")
    lab.wait_state("confirmed", deployment=second, instance="second")
    settings, lab.patience_s = lab.base / "etc/agent.toml", 2 * lab.patience_s  # it is looked at each minute
    good = settings.read_text()
    settings.write_text(good + "[policy]\nno_such_setting = 1\n")
    agent = lab.publish_agent(lab.tarball("0.2.0"))
    lab.wait_agent("staged", deployment=agent)
    lab.observer.wait(
        lambda: lab.of(AGENT).attempt.reason == "settings-invalid", lab.patience_s, "a reason why the agent is not replaced"
    )
    settings.write_text(good + "[instances.second.grants.logging]\n")
    lab.wait_agent("confirmed", deployment=agent)
    assert lab.of("second").running.version == ""
    assert "capability-denied" in " ".join(lab.report.problems) + lab.log()
    lab.running("1.0.0")


@pytest.mark.full
def test_an_agent_waits_while_one_that_was_flashed_is_on_trial(lab):
    lab.start()
    lab.install(1)
    (lab.base / "trial.tried").touch()
    versions.point(lab.base / "trial", "flashed")
    deployment = lab.publish_agent(lab.tarball("0.2.0"))
    report = lab.wait_agent("failed", deployment=deployment)
    assert report.attempt.reason == "agent-on-trial"
    (lab.base / "trial").unlink()
    lab.wait_agent("confirmed", deployment=deployment)


def test_an_agent_without_a_launcher_says_that_it_is_updated_otherwise(tmp_path):
    lab = open_lab(tmp_path)
    (tmp_path / "tarballs").mkdir()
    try:
        lab.start()
        made = host_tarball(tmp_path / "tarballs")
        (tmp_path / "agent.tar.gz").write_bytes(made.content)
        update = prepare_agent(tmp_path / "agent.tar.gz", VENDOR).signed(1, lab.signer.keys["release"])
        deployment = lab.deploy(update, instance=AGENT)
        assert lab.wait_state("rejected", deployment=deployment, instance=AGENT).attempt.reason == "launcher-missing"
    finally:
        lab.close()


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("cuts", [pytest.param(1, id="once"), pytest.param(20, id="20 times")])
def test_power_cuts_at_any_moment_of_an_agents_update_leave_an_agent_that_runs(tmp_path, cuts):
    seed = int(os.environ.get("WAMR_OTA_SEED", time.time_ns() % 2**32))
    chance = random.Random(seed)
    broker = Rumqttd(tmp_path)
    broker.start()
    lab = AirLab(tmp_path, broker)
    try:
        lab.start()
        lab.install(1)
        began = time.monotonic()
        lab.wait_agent("confirmed", deployment=lab.publish_agent(lab.tarball("0.2.0")))
        takes_s = time.monotonic() - began
        ends = Counter()
        for number in range(cuts):
            before = lab.confirmed
            made = lab.tarball(f"0.3.{number}")
            deployment = lab.publish_agent(made)
            time.sleep(chance.uniform(0, takes_s))
            lab.kill()
            lab.observer.forget_reports()
            lab.switch_on()
            report = lab.wait_agent("confirmed", deployment=deployment)
            ends[report.attempt.state] += 1
            assert lab.confirmed == made.name
            assert before != made.name
            lab.still_answers(1)
        print(f"an update takes {takes_s:.1f} s, {dict(ends)}")
    except BaseException as error:
        error.add_note(f"seed {seed}")
        print(lab.log()[-6000:])
        raise
    finally:
        lab.close()


@pytest.mark.full
def test_an_agent_that_comes_in_a_bundle_is_tried_and_confirmed_like_any_other(lab):
    """Nothing of it is on the broker; the bundle outlives the change from one agent to the other."""
    lab.start()
    lab.install(1)
    made = lab.tarball("0.2.0")
    update = lab.agent_update(made)
    entry = lab.signer.entry(update.digest, now_s=int(time.time()))
    _, document = lab.signer.document({**lab.entries[""], AGENT: entry}, group=GROUP)
    messages = sorted([(topics.desired(GROUP), document), *artifacts(update)], key=lambda each: bundle.order(each[0]))
    inbox = lab.folder / "store" / "inbox"
    inbox.mkdir(exist_ok=True)
    with (inbox / "agent.part").open("wb") as file:
        bundle.pack([(topic, functools.partial(bytes, payload)) for topic, payload in messages], file.write)
    (inbox / "agent.part").rename(inbox / "agent.bundle")
    lab.wait_agent("confirmed", deployment=entry.deployment_id)
    assert lab.confirmed == made.name
    answer = inbox / "agent.bundle.answer.json"
    lab.observer.wait(lambda: '"result": "confirmed"' in answer.read_text(), lab.patience_s, "an answer of the new agent")
    assert not (inbox / "agent.bundle").exists()
