"""Bundles on the board: opening, losing them in the middle, answering; documents of a bundle beside those of the broker."""

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from device_agent.desired import answers, watch
from device_agent.desired.answers import Led, Pattern, pattern, write_beside
from device_agent.desired.bundles import OPEN_LIMIT, Bundles, OpenBundle
from device_agent.desired.desired import Setting
from device_agent.desired.fetch import Transfers
from device_agent.desired.installation import Answer, Board, Installation, Result
from device_agent.desired.transfer import Part
from ota.formats import bundle, topics
from ota.formats.reasons import Reason, Refused
from ota.keyring import SigningKey
from tests.support.desk import Desk
from tests.support.lab import PATIENCE_S
from tests.support.signing import INSTANCE, NOW_S, Signer

BLOB = bytes(32)
PARTS = [Part(topics.blob_chunk(BLOB, number), 1024) for number in range(4)]
CONTENT = [(topics.blob_index(BLOB), b"index"), *((part.topic, bytes((number,)) * 1024) for number, part in enumerate(PARTS))]


async def no_reports():
    return []


def packed(path, messages=CONTENT):
    with path.open("wb") as file:
        bundle.pack([(topic, partial(bytes, payload)) for topic, payload in messages], file.write)
    return path


def opened(path) -> OpenBundle:
    return OpenBundle(path)


def reason(work) -> Reason:
    with pytest.raises(Refused) as caught:
        work()
    return caught.value.reason


def test_links_folders_pipes_and_files_that_are_gone_are_no_bundles(tmp_path):
    packed(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    assert reason(lambda: opened(tmp_path / "link")) is Reason.BUNDLE_GONE
    assert reason(lambda: opened(tmp_path / "absent")) is Reason.BUNDLE_GONE
    assert reason(lambda: opened(tmp_path / "pipe")) is Reason.BUNDLE_INVALID
    assert reason(lambda: opened(tmp_path)) is Reason.BUNDLE_INVALID


def test_a_sparse_file_of_any_length_is_refused_unread(tmp_path):
    path = tmp_path / "endless"
    path.touch()
    os.truncate(path, 1 << 42)
    assert reason(lambda: opened(path)) is Reason.TOO_LARGE


def fetched(bundles: Bundles, after=lambda number: None) -> list[bytes]:
    """The parts that come without a broker; `after` is called with how many there are."""
    found: list[bytes] = []

    async def take(arrived: Sequence[tuple[Part, bytes]]) -> None:
        ((_, payload),) = arrived
        found.append(payload)
        after(len(found))

    async def main() -> None:
        transfers = Transfers(None, bundles, None, None, 1.0, None)
        with contextlib.suppress(Refused):
            await transfers.run(PARTS, Reason.CHUNK_MISSING, take)
        bundles.close()

    asyncio.run(main())
    return found


def test_a_stick_that_is_pulled_out_in_the_middle_ends_the_fetch_and_leaves_what_there_is(tmp_path):
    path = packed(tmp_path / "a.bundle")
    bundles, held = Bundles(), opened(path)
    asyncio.run(bundles.add(held))
    found = fetched(bundles, lambda number: os.truncate(path, 0) if number == 2 else None)
    assert found == [payload for _, payload in CONTENT[1:3]]
    assert held.lost.reason is Reason.BUNDLE_GONE


def test_a_bundle_that_nobody_waits_for_any_more_once_it_is_open_does_not_keep_its_stick_from_being_unmounted(tmp_path):
    path, opening, go_on = packed(tmp_path / "a.bundle"), threading.Event(), threading.Event()

    def slowly(path) -> OpenBundle:
        opening.set()
        assert go_on.wait(60)
        return OpenBundle(path)

    async def main() -> None:
        bundles = Bundles()
        task = asyncio.ensure_future(bundles.run(slowly, path))
        await asyncio.to_thread(opening.wait, 60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go_on.set()
        await bundles.run(lambda: None)
        bundles.close()

    asyncio.run(main())
    assert path not in {each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()}


def test_an_error_of_the_stick_is_a_bundle_that_is_gone(tmp_path, monkeypatch):
    held = opened(packed(tmp_path / "a.bundle"))
    monkeypatch.setattr(os, "pread", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    assert reason(lambda: held.read(PARTS[0].topic)) is Reason.BUNDLE_GONE


def test_a_stick_that_dies_while_it_is_opened_is_a_bundle_that_is_gone(tmp_path, monkeypatch):
    path, fstat = packed(tmp_path / "a.bundle"), os.fstat

    def failing(file):
        if fstat(file).st_ino == path.stat().st_ino:
            raise OSError(107, "Transport endpoint is not connected")
        return fstat(file)

    monkeypatch.setattr(os, "fstat", failing)
    assert reason(lambda: opened(path)) is Reason.BUNDLE_GONE


def test_what_one_bundle_has_lost_comes_from_another(tmp_path):
    first, second = packed(tmp_path / "a.bundle"), packed(tmp_path / "b.bundle")
    bundles = Bundles()
    for each in (first, second):
        asyncio.run(bundles.add(opened(each)))
    os.truncate(first, 0)
    assert fetched(bundles) == [payload for _, payload in CONTENT[1:]]


def test_what_one_bundle_has_damaged_comes_from_another(tmp_path):
    damaged = [(topic, bytes(len(payload))) for topic, payload in CONTENT]
    found: list[bytes] = []

    async def take(arrived: Sequence[tuple[Part, bytes]]) -> None:
        ((part, payload),) = arrived
        if payload != dict(CONTENT)[part.topic]:
            raise Refused(Reason.CHUNK_DIGEST_MISMATCH, part.topic)
        found.append(payload)

    async def main():
        bundles = Bundles()
        await bundles.add(opened(packed(tmp_path / "a.bundle", damaged)))
        with pytest.raises(Refused) as caught:
            await Transfers(None, bundles, None, None, 1.0, None).run(PARTS[1:], Reason.CHUNK_MISSING, take)
        assert caught.value.reason is Reason.CHUNK_DIGEST_MISMATCH
        await bundles.add(opened(packed(tmp_path / "b.bundle")))
        await Transfers(None, bundles, None, None, 1.0, None).run(PARTS[1:], Reason.CHUNK_MISSING, take)
        bundles.close()

    asyncio.run(main())
    assert found == [payload for _, payload in CONTENT[2:]]


def test_a_bundle_brings_what_is_waited_for_already(tmp_path):
    arrived = []

    async def main():
        bundles = Bundles()
        bundles.waited_for = lambda: [PARTS[1].topic, "ota/v1/manifest/" + "0" * 64]
        bundles.arrived = lambda topic, payload: arrived.append((topic, payload))
        await bundles.add(opened(packed(tmp_path / "a.bundle")))
        bundles.close()

    asyncio.run(main())
    assert arrived == [CONTENT[2]]


# -- documents


async def taken(desk: Desk, document: bytes, topic: str = topics.desired("lab")) -> list:
    desk.go.set()
    for posted in desk.places.posted.values():
        posted.clear()
    await desk.desired.take(topic, document)
    await desk.rest()
    return desk.posted


def test_a_document_of_a_bundle_is_offered_like_one_of_the_broker(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path)
        deployment, document = signer.deployment(BLOB)
        (offered,) = await taken(desk, document)
        assert offered.deployment == deployment.entries[INSTANCE].deployment_id

    asyncio.run(main())


def test_an_older_document_of_a_bundle_is_refused_and_moves_nothing(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path)
        _, old = signer.deployment(b"o" * 32)
        deployment, new = signer.deployment(b"n" * 32)
        await desk.takes(new)
        with pytest.raises(Refused) as caught:
            await taken(desk, old)
        assert caught.value.reason is Reason.DEPLOYMENT_REPLAYED
        desk.desired.consider()
        await desk.rest()
        assert desk.desired.entry(INSTANCE) == deployment.entries[INSTANCE]
        assert desk.refusal is None

    asyncio.run(main())


def test_a_newer_document_of_a_bundle_stays_in_force_beside_an_older_one_of_the_broker(tmp_path):
    """Also when the root changes, and all is verified again."""

    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path)
        _, old = signer.deployment(b"o" * 32)
        deployment, new = signer.deployment(b"n" * 32)
        await desk.takes(old)
        await taken(desk, new)
        assert desk.desired.entry(INSTANCE) == deployment.entries[INSTANCE]
        await taken(desk, signer.root_document(number=2), topics.root(2))
        assert desk.trust.root.number == 2
        assert desk.desired.entry(INSTANCE) == deployment.entries[INSTANCE]

    asyncio.run(main())


def test_the_brokers_document_that_is_on_its_way_to_the_disk_is_not_lost_to_an_older_bundle(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path)
        _, old = signer.deployment(b"o" * 32)
        deployment, new = signer.deployment(b"n" * 32)
        bundled = asyncio.ensure_future(desk.desired.take(topics.desired("lab"), old))
        await asyncio.sleep(0)
        desk.wants(new)
        await desk.rest()
        await asyncio.gather(bundled, return_exceptions=True)
        assert desk.desired.entry(INSTANCE) == deployment.entries[INSTANCE]

    asyncio.run(main())


def test_a_document_of_a_bundle_with_a_strangers_signature_is_refused(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path)
        _, document = signer.deployment(BLOB, keys=[SigningKey.generate()])
        with pytest.raises(Refused) as caught:
            await taken(desk, document)
        assert caught.value.reason is Reason.SIGNER_UNKNOWN
        assert desk.desired.entry(INSTANCE) is None

    asyncio.run(main())


def bundle_of(path, document: bytes, topic: str = topics.desired("lab")):
    return opened(packed(path, [(topic, document)]))


def installation(desk: Desk, held: OpenBundle) -> Installation:
    return Installation(Board(Setting("board", "lab", 60), desk.trust, desk.desired, Bundles(), dict), held)


def test_a_bundle_that_a_newer_one_replaced_is_answered_and_not_waited_for(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path / "store")
        desk.go.set()
        (_, older), (_, newer) = signer.deployment(BLOB), signer.deployment(b"1" * 32)
        first = installation(desk, bundle_of(tmp_path / "a", older))
        assert (await first.begin()).result is Result.INSTALLING
        second = installation(desk, bundle_of(tmp_path / "b", newer))
        assert (await second.begin()).result is Result.INSTALLING
        found = first.look()
        assert (found.result, found.replaced) == (Result.REFUSED, True)
        assert [each.reason for each in found.instances] == ["deployment-stopped"]
        assert pattern([found, answer(Result.CONFIRMED)]) is Pattern.ON

    asyncio.run(main())


def test_a_groups_bundle_for_an_instance_that_has_a_deployment_for_this_board_alone_is_answered(tmp_path):
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path / "store")
        _, own = signer.deployment(b"1" * 32, device="board")
        await desk.takes(own, topics.device_desired("board"))
        _, document = signer.deployment(BLOB)
        found = await installation(desk, bundle_of(tmp_path / "a", document)).begin()
        assert (found.result, found.replaced) == (Result.REFUSED, True)

    asyncio.run(main())


def test_many_bundles_on_a_stick_do_not_keep_the_newest_waiting(tmp_path):
    """More than are open at the same time, each newer than the one before."""

    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer, tmp_path / "store")
        desk.go.set()
        stick = tmp_path / "stick"
        stick.mkdir()
        made = [signer.deployment(bytes((number,)) * 32) for number in range(OPEN_LIMIT + 3)]
        for number, (_, document) in enumerate(made):
            packed(stick / f"{number:02}.bundle", [(topics.desired("lab"), document)])
        board = Board(Setting("board", "lab", 60), desk.trust, desk.desired, Bundles(), dict)
        spawned = set()

        def spawn(work):
            task = asyncio.ensure_future(work)
            spawned.add(task)
            return task

        looking = asyncio.ensure_future(watch.Watch(watch.WatchSettings((str(stick),)), tmp_path, board, no_reports, spawn).run())
        newest = made[-1][0].entries[INSTANCE].deployment_id
        async with asyncio.timeout(PATIENCE_S):
            while (entry := desk.desired.entry(INSTANCE)) is None or entry.deployment_id != newest:
                await asyncio.sleep(0.01)
        for task in (looking, *spawned):
            task.cancel()
        await asyncio.gather(looking, *spawned, return_exceptions=True)
        board.bundles.close()

    asyncio.run(main())


@pytest.mark.parametrize("reason", ["group-mismatch", "deployment-replayed"])
def test_the_answer_on_a_stick_is_about_the_bundle_that_counts(tmp_path, reason):
    async def main():
        stick, bundles = tmp_path / "stick", Bundles()
        stick.mkdir()
        board = Board(Setting("board", "lab", 60), None, None, bundles, dict)
        looking = watch.Watch(watch.WatchSettings(), tmp_path, board, no_reports, None)

        def result() -> str:
            return json.loads((stick / "board.answer.json").read_text())["result"]

        await looking._tell(stick / "z.bundle", answer(Result.REFUSED, reason))
        assert result() == "refused"  # alone it is an answer
        await looking._tell(stick / "a.bundle", answer(Result.CONFIRMED))
        await looking._tell(stick / "z.bundle", answer(Result.REFUSED, reason))
        assert result() == "confirmed"
        bundles.close()

    asyncio.run(main())


# -- answers


def answer(result: Result, reason: str = "") -> Answer:
    return Answer("a.bundle", "board", result, reason)


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ([], Pattern.OFF),
        ([answer(Result.INSTALLING)], Pattern.WORKING),
        ([answer(Result.CONFIRMED), answer(Result.INSTALLING)], Pattern.WORKING),
        ([answer(Result.CONFIRMED)], Pattern.ON),
        ([answer(Result.WAITING), answer(Result.NOTHING)], Pattern.ON),
        ([answer(Result.CONFIRMED), answer(Result.REFUSED, "group-mismatch")], Pattern.ON),
        ([answer(Result.REFUSED, "group-mismatch")], Pattern.REFUSED),
        ([answer(Result.CONFIRMED), answer(Result.FAILED)], Pattern.REFUSED),
        ([answer(Result.REFUSED, "deployment-replayed"), answer(Result.CONFIRMED)], Pattern.ON),
        ([answer(Result.REFUSED, "deployment-replayed")], Pattern.REFUSED),
    ],
)
def test_the_led_shows_the_worst_of_what_is_for_this_board(found, shown):
    assert pattern(found) is shown


def test_the_led_is_driven_as_the_kernel_has_it(tmp_path, caplog):
    led = tmp_path / "ACT"
    led.mkdir()
    (led / "max_brightness").write_text("255\n")
    shown = Led("ACT", tmp_path)
    shown.show(Pattern.WORKING)
    assert [(led / name).read_text() for name in ("trigger", "delay_on", "delay_off")] == ["timer", "500", "500"]
    shown.show(Pattern.ON)
    assert [(led / name).read_text() for name in ("trigger", "brightness")] == ["none", "255"]
    shown.show(Pattern.OFF)
    assert (led / "brightness").read_text() == "0"
    Led("absent", tmp_path).show(Pattern.ON)
    assert "LED absent" in caplog.text
    Led("").show(Pattern.ON)


def test_a_link_on_a_stick_leads_nowhere(tmp_path):
    """A stick with a file system of links: what the board writes replaces them, and goes through none."""
    stick, secret = tmp_path / "stick", tmp_path / "secret"
    stick.mkdir()
    secret.write_text("untouched")
    (stick / "board.answer.json").symlink_to(secret)
    (stick / ".board.answer.json.part").symlink_to(secret)
    write_beside(stick, "board.answer.json", b"answer")
    assert (stick / "board.answer.json").read_bytes() == b"answer"
    assert secret.read_text() == "untouched"
    (tmp_path / "link").symlink_to(stick)
    with pytest.raises(OSError, match=r"directory|links"):
        write_beside(tmp_path / "link", "name", b"")


def test_only_files_of_their_own_in_watched_folders_are_found(tmp_path):
    inbox, stick, other = (tmp_path / name for name in ("inbox", "media/one", "media/two"))
    for each in (inbox, stick, other):
        each.mkdir(parents=True)
    (tmp_path / "media" / "link").symlink_to(stick)
    for name in ("a.bundle", "b.bundle", ".hidden.bundle", "note.txt"):
        (stick / name).touch()
    (stick / "c.bundle").symlink_to(stick / "a.bundle")
    (stick / "d.bundle").mkdir()
    (inbox / "e.bundle").touch()
    found = watch._found(inbox, (f"{tmp_path}/media/*", f"{tmp_path}/nothing/*"))
    assert sorted(found) == [inbox / "e.bundle", stick / "a.bundle", stick / "b.bundle"]
    for number in range(watch.FILES_LIMIT + 5):
        (other / f"{number:03}.bundle").touch()
    assert len(watch._found(inbox, (f"{tmp_path}/media/*",))) == 3 + watch.FILES_LIMIT


def test_a_stick_that_is_dead_hides_no_other(tmp_path, monkeypatch):
    for name in ("dead", "good"):
        (tmp_path / name / "updates").mkdir(parents=True)
    packed(tmp_path / "good" / "updates" / "a.bundle")
    scandir = os.scandir

    def failing(path="."):
        if os.fspath(path) == str(tmp_path / "dead"):
            raise OSError(5, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    (found,) = watch._found(tmp_path / "inbox", (f"{tmp_path}/*/*",))
    assert found.name == "a.bundle"


def test_the_inbox_is_tidied_of_what_a_power_cut_left(tmp_path):
    (tmp_path / "half.bundle.part").touch()
    (tmp_path / "whole.bundle").touch()
    for number in range(watch.ANSWERS_KEPT + 2):
        (tmp_path / f"{number:03}.bundle{watch.ANSWER}").touch()
    watch._tidy(tmp_path)
    assert not (tmp_path / "half.bundle.part").exists()
    assert (tmp_path / "whole.bundle").exists()
    assert len(list(tmp_path.glob(f"*{watch.ANSWER}"))) == watch.ANSWERS_KEPT


def test_an_answer_is_one_line_for_people_and_plain_values_for_machines():
    made = Answer("a.bundle", "board", Result.REFUSED, "bundle-invalid", "it is empty")
    assert str(made) == "a.bundle: refused: bundle-invalid: it is empty"
    assert json.loads(json.dumps(made.as_json()))["result"] == "refused"


def test_a_console_that_is_not_there_is_passed_over(tmp_path):
    answers.print_line(tmp_path / "absent", "text")
    answers.print_line(None, "text")
    (tmp_path / "console").touch()
    answers.print_line(tmp_path / "console", "text")
    assert (tmp_path / "console").read_bytes() == b"text\r\n"
