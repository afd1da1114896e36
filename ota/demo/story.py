"""The demonstration: runs each step for real, and prints at the end what was proven, with the counted evidence."""

import json
import secrets
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ota.author.build import Update, prepare, sign
from ota.cli.output import table
from ota.demo.stage import DEVICE, GROUP, Stage
from ota.errors import OtaError
from ota.formats import suit, topics
from ota.formats.deployment import DEPLOYMENT_TYPE, Deployment
from ota.formats.report import Report
from ota.keyring import SigningKey, sign_document
from ota.operator.broker import Broker
from ota.operator.publish import artifacts
from ota.operator.workspace import Workspace

OFFLINE_S = 3.0
HOUR_S = 3600
Claim = tuple[str, bool, str]


def tell(modules: Path, *, pause: bool) -> int:
    """Returns 0 when everything that the demonstration claims has happened, 1 otherwise. Raises OtaError when it can't begin."""
    missing = [name for name in ("monitor-v1", "monitor-v2", "monitor-v3") if not (modules / f"{name}.wasm").exists()]
    if missing:
        raise OtaError(f"{modules} lacks {', '.join(missing)}: build them with `python sdk/build.py --out {modules}`")
    with tempfile.TemporaryDirectory(prefix="wamr-ota-demo-") as folder:
        stage = Stage(Path(folder))
        story = _Story(stage, modules, pause)
        try:
            story.run()
        except OtaError as error:
            story.claims.append(("the demonstration ran to its end", False, str(error)))
            log = (Path(folder) / "board.log").read_text(encoding="utf-8").splitlines()
            sys.stderr.write("\n".join(["the board's log ends:", *log[-20:], ""]))
        finally:
            stage.close()
        return story.summary()


class _Story:
    def __init__(self, stage: Stage, modules: Path, pause: bool) -> None:
        self.stage, self.modules, self._pause = stage, modules, pause
        self.claims: list[Claim] = []
        self._step = 0
        self._refused: list[str] = []
        self._gap_ms = 0.0

    def run(self) -> None:
        self._beginning()
        self._first_module()
        self._hot_swap()
        self._rollback()
        self._refusals()
        self._offline()
        self._balance("every reading until then was handled")
        self._power_cut()
        self._balance("and every reading since")

    def summary(self) -> int:
        self._say("\nWhat was just shown, counted from what happened:\n")
        rows = [("yes" if holds else "NO", what, evidence) for what, holds, evidence in self.claims]
        self._say(table(("held", "claim", "evidence"), rows))
        good = all(holds for _, holds, _ in self.claims)
        self._say("\nAll of it held." if good else "\nNot all of it held.")
        return 0 if good else 1

    # -- the chapters

    def _beginning(self) -> None:
        stage = self.stage
        self._chapter(
            "A broker, an operator, a board",
            "The broker is a real MQTT 5 broker. The operator makes keys and a root of trust; the board gets the root only.",
        )
        code, text = self._ota(
            "init", "--no-passphrase", "--broker", stage.broker.url, "--group", GROUP, "--vendor", "demo.example"
        )
        self._claim("keys and root of trust were made", code == 0, f"{len(text.splitlines())} files and folders")
        stage.start_board()
        stage.observer.wait(lambda: stage.observer.report is not None, 20, "the board's first report")
        self._say(f"  the board {DEVICE} is online; it has no module yet")

    def _first_module(self) -> None:
        self._chapter(
            "The first module", "monitor reads this machine's own load, memory and temperature, and learns what is usual."
        )
        code, _ = self._ota("publish", str(self.modules / "monitor-v1.wasm"), "--wait", "30")
        self._claim("a signed module was published and confirmed", code == 0 and self._runs("1.0.0"), self._running())
        self._collect(10)
        self._show_messages(3)

    def _hot_swap(self) -> None:
        stage = self.stage
        self._chapter(
            "A better detector, while readings flow",
            "Version 2 starts beside version 1, takes over what it learned, and the two change between two readings.",
        )
        before = stage.counter("events_handled")
        code, _ = self._ota("publish", str(self.modules / "monitor-v2.wasm"), "--wait", "30")
        swapped = self._runs("2.0.0")
        self._collect(6)
        self._gap_ms = stage.counter("gap_us") / 1000
        self._show_messages(2)
        counts = self._event_counts("monitor 1.0.0", "monitor 2.0.0")
        self._claim(
            "version 2 took its place",
            code == 0 and swapped,
            f"gap {self._gap_ms:.1f} ms, {stage.counter('events_handled') - before} readings meanwhile",
        )
        self._claim(
            "it went on with what version 1 had learned",
            _contiguous(counts),
            f"readings {counts[0]} to {counts[-1]} without a hole" if counts else "none seen",
        )

    def _rollback(self) -> None:
        stage = self.stage
        self._chapter(
            "A faulty version",
            "Version 3 traps on its third reading. The board goes back to version 2, never stopped, and gives it that reading.",
        )
        code, _ = self._ota("publish", str(self.modules / "monitor-v3.wasm"), "--wait", "30")
        report = self._report()
        held = code == 1 and report.attempt.state == "rolled-back" and self._runs("2.0.0")
        self._claim("version 3 was rolled back by the board itself", held, f"{report.attempt.reason}: {report.attempt.detail}")
        before = stage.counter("events_handled")
        stage.observer.wait(lambda: stage.counter("events_handled") > before + 4, 10, "readings after the rollback")

    def _refusals(self) -> None:
        self._chapter(
            "Updates that must not run",
            "Each comes with a rightly signed deployment, as if the deploy key were stolen: only the release key signs modules.",
        )
        workspace = Workspace.open(self.stage.workspace)
        draft = prepare(self.modules / "monitor-v2.wasm", workspace.settings.vendor)
        good = draft.signed(int(time.time()) + 10, workspace.key("release"))
        tampered = _replace_once(good.envelope, b"monitor", b"monitoR")
        attacks: list[tuple[str, Callable[[], Update], str]] = [
            ("one letter of a signed manifest changed", lambda: replace(good, envelope=tampered), "signature-invalid"),
            ("a manifest without a signature", lambda: sign(good.manifest, good.blob, good.index, []), "signature-missing"),
            (
                "a manifest signed by a stranger's key",
                lambda: sign(good.manifest, good.blob, good.index, [SigningKey.generate()]),
                "signer-unknown",
            ),
            ("last week's manifest, signed then", lambda: self._old(workspace, good), "sequence-too-old"),
        ]
        for what, make, expected in attacks:
            report = self._attack(workspace, make())
            held = report.attempt.state == "rejected" and report.attempt.reason == expected and self._runs("2.0.0")
            self._refused.append(report.attempt.reason)
            self._claim(f"refused: {what}", held, f"{report.attempt.reason}")
            self._say(f"  {what}: {report.attempt.state}, {report.attempt.reason}: {textwrap.shorten(report.attempt.detail, 80)}")

    def _offline(self) -> None:
        stage = self.stage
        self._chapter(
            "No network",
            f"The broker is stopped for {OFFLINE_S:.0f} seconds. Readings are handled; results wait on the board's disk.",
        )
        last = max(stage.observer.messages)
        stage.broker.stop()
        time.sleep(OFFLINE_S)
        seen = len(stage.observer.messages)
        stage.broker.start()
        stage.observer.wait(lambda: max(stage.observer.messages) > last + 20, 30, "what the board kept while the broker was away")
        late = [each for each in stage.observer.messages.values() if each.number > last]
        span_s = max(each.time_s for each in late) - min(each.time_s for each in late)
        self._say(f"  {len(stage.observer.messages) - seen} results arrived when the broker was back")
        self._claim(
            "the board went on without the broker",
            span_s >= OFFLINE_S / 2,
            f"results from {span_s:.1f} s of silence arrived later",
        )

    def _power_cut(self) -> None:
        stage = self.stage
        self._chapter(
            "Power cut, and no network to boot from",
            "Agent and worker are killed, the broker too. The board starts again from its own disk.",
        )
        stage.kill_board()
        stage.broker.stop()
        last = max(stage.observer.messages)
        stage.observer.report = None
        stage.start_board()
        time.sleep(1.5)
        stage.broker.start()
        stage.observer.wait(
            lambda: stage.observer.report is not None and max(stage.observer.messages) > last + 5,
            30,
            "the board after a power cut",
        )
        self._claim("after a power cut the confirmed module runs again", self._runs("2.0.0"), self._running())
        numbers = sorted(stage.observer.messages)
        self._claim(
            "no result was lost",
            numbers == list(range(1, numbers[-1] + 1)),
            f"messages 1 to {numbers[-1]}, all there",
        )

    def _balance(self, what: str) -> None:
        stage = self.stage
        stage.observer.wait(lambda: self._handled() == stage.counter("events"), 10, "a report with no reading in flight")
        swaps, rollbacks = stage.counter("swaps"), stage.counter("rollbacks")
        events, handled, dropped = (stage.counter(name) for name in ("events", "events_handled", "events_dropped"))
        self._claim(
            what,
            dropped == 0 and handled == events,
            f"{events} in, {handled} handled, {dropped} dropped; {swaps} swaps, {rollbacks} rolled back",
        )

    # -- helpers

    def _attack(self, workspace: Workspace, update: Update) -> Report:
        ours, now_s, epoch = secrets.token_bytes(16), int(time.time()), workspace.next_epoch(GROUP)
        deployment = Deployment(GROUP, ours, update.digest, epoch, now_s, now_s + HOUR_S)
        document = sign_document(deployment.to_payload(), DEPLOYMENT_TYPE, [workspace.key("deploy")])
        with Broker(workspace.settings) as broker:
            broker.publish_all([*artifacts(update), (topics.desired(GROUP), document)])
        self.stage.observer.wait(
            lambda: (
                self._report().attempt.deployment == ours and self._report().attempt.state not in ("offered", "fetching", "staged")
            ),
            20,
            "the board's answer",
        )
        return self._report()

    def _old(self, workspace: Workspace, good: Update) -> Update:
        manifest = replace(good.manifest, sequence=int(time.time()) - 7 * 86_400)
        return sign(manifest, good.blob, good.index, [workspace.key("release")])

    def _handled(self) -> int:
        return sum(self.stage.counter(name) for name in ("events_handled", "events_refused", "events_dropped"))

    def _report(self) -> Report:
        report = self.stage.observer.report
        assert report is not None
        return report

    def _running(self) -> str:
        running = self._report().running
        return f"{running.name} {running.version}, {running.slot}"

    def _runs(self, version: str) -> bool:
        observer = self.stage.observer
        observer.wait(
            lambda: self._report().running.version == version and self._report().running.slot == "confirmed",
            20,
            f"version {version} running",
        )
        return True

    def _collect(self, more: int) -> None:
        observer = self.stage.observer
        target = len(observer.messages) + more
        observer.wait(lambda: len(observer.messages) >= target, 20, "readings")

    def _event_counts(self, *modules: str) -> list[int]:
        messages = self.stage.observer.messages
        chosen = (messages[number] for number in sorted(messages) if messages[number].module in modules)
        return [json.loads(each.payload)["event"] for each in chosen if each.topic.startswith("readings/")]

    def _show_messages(self, count: int) -> None:
        messages = self.stage.observer.messages
        for number in sorted(messages)[-count:]:
            each = messages[number]
            self._say(f"  {each.module}: {each.topic} {each.payload.decode()}")

    def _ota(self, *words: str) -> tuple[int, str]:
        shown = " ".join(word.removeprefix(f"{self.modules}/") for word in words)
        self._say(f"  $ ota {shown}")
        code, text = self.stage.ota(*words)
        self._say(textwrap.indent(text.rstrip().replace(str(self.stage.folder), "…"), "    "))
        return code, text

    def _chapter(self, title: str, text: str) -> None:
        self._step += 1
        self._say(f"\n{self._step}. {title}\n{textwrap.fill(text, 100, initial_indent='   ', subsequent_indent='   ')}")
        if self._pause:
            time.sleep(1.5)

    def _claim(self, what: str, holds: bool, evidence: str) -> None:
        self.claims.append((what, holds, evidence))

    def _say(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _contiguous(counts: list[int]) -> bool:
    return bool(counts) and counts == list(range(counts[0], counts[0] + len(counts)))


def _replace_once(data: bytes, old: bytes, new: bytes) -> bytes:
    """Changes the envelope's manifest and puts the right digest over it again, so that only the signature can tell."""
    envelope = suit.Envelope.from_bytes(data, 1 << 20)
    changed = envelope.manifest_bytes.replace(old, new, 1)
    return data.replace(envelope.manifest_bytes, changed).replace(envelope.digest, suit.signed_digest(changed))
