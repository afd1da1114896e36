"""Operators that publish to one group at the same moment: real operators, a real broker."""

import subprocess
import sys
import threading
import time

import pytest

from ota.author.build import prepare
from ota.operator.document import ConflictError
from ota.operator.presence import put
from ota.operator.publish import artifacts, sign_draft
from ota.operator.workspace import Workspace
from tests.support.operator import ota
from tests.support.publishing import LAB, publish

OTA = [sys.executable, "-m", "ota.cli.main"]
ROUNDS = 4


class Race:
    """Operators with copies of one workspace; the first publication of each waits until all have looked at the broker."""

    def __init__(self, site, updates) -> None:
        self._site = site
        self._updates = updates
        self._barrier = threading.Barrier(len(updates))
        self.outcomes = {}

    def run(self) -> None:
        threads = [threading.Thread(target=self._operator, args=(number,)) for number in range(len(self._updates))]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def _operator(self, number: int) -> None:
        folder, update = self._updates[number]
        with self._site.connect() as broker:
            put(broker, artifacts(update))
            publish_heard = broker.publish_heard

            def together(*document):
                broker.publish_heard = publish_heard
                self._barrier.wait(60)
                publish_heard(*document)

            broker.publish_heard = together
            try:
                self.outcomes[number] = publish(Workspace.open(folder), broker, update)
            except ConflictError as error:
                self.outcomes[number] = error


def signed(site, folder, version: int, name: str = "echo"):
    """An update in a workspace, on the broker already."""
    workspace = Workspace.open(folder)
    draft = prepare(site.module(version, name), workspace.settings.vendor)
    return folder, sign_draft(workspace, draft, int(time.time()) + 10 * version)


def test_operators_of_different_instances_at_the_same_moment_are_all_kept(site):
    assert ota(site.folder, "publish", site.module(1)) == 0
    folders = [site.folder, site.copy("second"), site.copy("third")]
    for turn in range(ROUNDS):
        names = [f"m{turn}-{number}" for number in range(len(folders))]
        race = Race(site, [signed(site, folder, 2, name) for folder, name in zip(folders, names, strict=True)])
        before = site.deployment()
        race.run()
        assert not [each for each in race.outcomes.values() if isinstance(each, ConflictError)]
        after = site.deployment()
        assert after.entries.keys() == before.entries.keys() | set(names)
        assert all(after.entries[name] == entry for name, entry in before.entries.items())
        assert after.epoch > before.epoch + 1  # above every document that crossed another
        assert all(Workspace.open(folder).read()["epochs"]["lab"] <= after.epoch for folder in folders)


def test_operators_of_one_instance_at_the_same_moment_are_told(site, caplog):
    """Whoever gives way says so, and so does whoever takes the other's place; one entry is on the broker, above both documents."""
    assert ota(site.folder, "publish", site.module(1)) == 0
    folders = [site.folder, site.copy("second")]
    for turn in range(ROUNDS):
        caplog.clear()
        race = Race(site, [signed(site, folder, 2 + 2 * turn + number) for number, folder in enumerate(folders)])
        before = site.deployment().epoch
        race.run()
        lost = [each for each in race.outcomes.values() if isinstance(each, ConflictError)]
        won = [each for each in race.outcomes.values() if not isinstance(each, ConflictError)]
        assert won
        told = "".join(map(str, lost)) + caplog.text  # of the second, where the first had read back and ended before
        assert "to instance echo" in told
        assert site.entry().deployment_id in [each.entries["echo"].deployment_id for each in won]
        assert site.deployment().epoch >= before + 2


def test_a_set_and_one_of_its_members_at_the_same_moment_leave_a_whole_set_or_none(site):
    assert ota(site.folder, "publish", site.module(1, "left")) == 0
    assert ota(site.folder, "publish", site.module(1, "right")) == 0
    old, copy = site.deployment(), site.copy("second")
    words = [
        (site.folder, "publish", site.module(2, "left"), site.module(2, "right"), "--together"),
        (copy, "publish", site.module(3, "left")),
    ]
    _at_once(words)
    found = site.deployment()
    left, right = found.entries["left"], found.entries["right"]
    together = left.together == right.together == ("left", "right") and left.deployment_id == right.deployment_id
    assert together or (left.together, right) == ((), old.entries["right"]) or (left.together, right.together) == ((), ())


def test_commands_of_two_operators_that_run_at_once_lose_nothing(site):
    """As two people do it: other processes, no barrier."""
    assert ota(site.folder, "publish", site.module(1)) == 0
    folders = [site.folder, site.copy("second")]
    wanted = {"echo"}
    for turn in range(ROUNDS):
        names = [f"m{turn}-{number}" for number in range(len(folders))]
        modules = [site.module(1, name) for name in names]
        codes = _at_once([(folder, "publish", module) for folder, module in zip(folders, modules, strict=True)])
        wanted |= set(names)
        assert codes == [0, 0]
        assert site.deployment().entries.keys() == wanted
    codes = _at_once([(folders[0], "remove", "m0-0"), (folders[1], "config", "m0-1", "key=value")])
    assert codes == [0, 0]
    assert site.entry("m0-0").absent
    assert site.entry("m0-1").config == {"key": "value"}
    codes = _at_once([(folders[0], "withdraw", "m0-0"), (folders[1], "pause", "lab", "--instance", "m1-1")])
    assert codes == [0, 0]
    assert "m0-0" not in site.deployment().entries
    assert site.entry("m1-1").paused


def _at_once(commands) -> list[int]:
    running = [
        subprocess.Popen([*OTA, "-C", str(folder), *map(str, words)], stdout=subprocess.DEVNULL) for folder, *words in commands
    ]
    return [each.wait() for each in running]


@pytest.mark.parametrize("turn", range(4))
def test_a_deployment_that_crosses_one_that_was_read_back_already_ends_above_it(site, turn):
    """Boards took the first; two of one epoch with different content would leave them on it for good."""
    assert ota(site.folder, "publish", site.module(1)) == 0
    copy, name = site.copy("second"), "other" if turn % 2 else "echo"
    theirs = []

    def meanwhile(document: bytes) -> None:
        assert ota(copy, "publish", site.module(3, name)) == 0
        theirs.append(site.deployment())

    try:
        ours = publish_after(site, 2, meanwhile)
    except ConflictError:
        assert name == "echo"
        ours = theirs[0].entries["echo"]
    assert site.entry("echo") == ours
    assert site.deployment().epoch > theirs[0].epoch
    if name == "other":
        assert site.entry("other") == theirs[0].entries["other"]


def test_another_operators_document_of_the_same_bytes_is_not_taken_for_our_own(site):
    """Who joins the same documents signs the same bytes: what came between theirs and ours still counts."""
    assert ota(site.folder, "publish", site.module(1)) == 0
    copy, theirs = site.copy("second"), []

    def meanwhile(document: bytes) -> None:
        site.put(LAB.topic, document)
        assert ota(copy, "publish", site.module(1, "other")) == 0
        theirs.append(site.deployment())

    ours = publish_after(site, 2, meanwhile)
    after = site.deployment()
    assert after.entries == {"echo": ours, "other": theirs[0].entries["other"]}
    assert after.epoch > theirs[0].epoch  # boards took that one


@pytest.mark.parametrize("lost", ["before", "after"])
def test_what_another_operator_published_while_our_connection_was_broken_is_kept(site, lost):
    assert ota(site.folder, "publish", site.module(1)) == 0
    copy, theirs = site.copy("second"), []

    def meanwhile(document: bytes) -> None:
        if lost == "after":  # it arrived, and its acknowledgement did not
            site.put(LAB.topic, document)
        assert ota(copy, "publish", site.module(1, "other")) == 0
        theirs.append(site.deployment())

    ours = publish_after(site, 2, meanwhile, break_connection=True)
    after = site.deployment()
    assert after.entries == {"echo": ours, "other": theirs[0].entries["other"]}
    assert after == theirs[0] or after.epoch > theirs[0].epoch  # it joined ours already, or ours stands above it


def publish_after(site, version: int, meanwhile, *, break_connection: bool = False):
    """Publishes an update; `meanwhile` gets its document when it is about to be sent. Returns the entry."""
    folder, update = signed(site, site.folder, version)
    with site.connect() as broker:
        put(broker, artifacts(update))
        publish_heard = broker.publish_heard

        def late(topic, document, *rest):
            broker.publish_heard = publish_heard
            meanwhile(document)
            if break_connection:
                broker._session.close()
            publish_heard(topic, document, *rest)

        broker.publish_heard = late
        return publish(Workspace.open(folder), broker, update).deployment.entries["echo"]
