"""flash, settings, enrol: boards get the agent, and become ours."""

import argparse
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from boards.console import Console, Login
from boards.definition import Board, load_board
from boards.errors import BoardError
from boards.flash import Flasher
from boards.image import kernel_command_line
from boards.line import SerialLine
from boards.uboot import UBoot
from boards.wheels import find
from ota.cli import output
from ota.cli.certificates import add_hours, batch, make_token
from ota.cli.operator import add_passphrase, open_workspace
from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats.enrolment import SERIAL, is_pattern
from ota.operator import reports
from ota.operator.broker import Broker
from ota.operator.ca import CertificateAuthority
from ota.operator.enrolment import Outcome, serve
from ota.operator.holdings import BundleFile
from ota.operator.provision import DEFAULT_POLICY, BoardSettings, check_board_key, check_time_server, read_policy
from ota.operator.roster import Roster
from ota.operator.session import BrokerError
from ota.operator.workspace import Workspace

ALIVE_S = 20.0
FOREVER_S = 10 * 365 * 86_400.0


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    flash = commands.add_parser(
        "flash",
        help="install the agent on a board's Linux over its serial console",
        epilog="example: ota flash raspberry-pi-4 --port /dev/ttyUSB0 --device roof-1 --broker mqtts://broker.example.com",
    )
    flash.add_argument("board", help="one of `ota boards`, or a definition of your own (a path that ends in .toml)")
    flash.add_argument("--port", required=True, help="/dev/ttyUSB0, a pty, socket://host:port, rfc2217://host:port")
    flash.add_argument("--baud", type=int, help="default: what the board's definition says")
    flash.add_argument("--device", default="", help="the board's name; needed the first time, when it gets its identity")
    flash.add_argument(
        "--provision-again", action="store_true", help="a new key, certificate and settings for a board that has some"
    )
    flash.add_argument("--user", default="root", help="to log in as, where the console asks (default %(default)s)")
    flash.add_argument("--password-file", type=Path, help="its password; without this it is asked for when it is needed")
    flash.add_argument(
        "--via",
        choices=("linux", "u-boot"),
        default="linux",
        help="u-boot: start the kernel of --image on a board that does not boot",
    )
    flash.add_argument("--image", type=Path, help="with --via u-boot: what `ota image build` made; the card holds the same")
    flash.add_argument("--base", default="", help="folder on the board (default /opt/wamr-ota)")
    flash.add_argument("--leave-clock", action="store_true", help="do not set the board's clock when it is wrong")
    flash.add_argument("--wait", type=output.seconds, default=120.0, metavar="SECONDS", help="for its report (default %(default)s)")
    flash.add_argument("--wheels", type=Path, default=Path("build/wheels"), help="made by `make wheels` (default %(default)s)")
    flash.add_argument("--cache", type=Path, default=Path("build/boards"), help="for packages (default %(default)s)")
    flash.add_argument("--bundle", type=Path, help="made by `ota pack`; installed when the agent runs")
    flash.add_argument("--dry-run", action="store_true", help="look at the board, and change nothing but a folder for the flasher")
    flash.add_argument("--json", action="store_true", help="machine-readable result")
    _add_settings(flash)
    add_passphrase(flash)
    flash.set_defaults(handler=_flash)

    settings = commands.add_parser(
        "settings",
        help="make the folder of a board's settings, with a token to enrol with",
        epilog="example: ota settings roof-1 --board qemu-riscv64 -o roof-1",
    )
    settings.add_argument("device", type=output.names, help=f"the board's name; for a batch of boards a name with {SERIAL} in it")
    settings.add_argument(
        "--board", required=True, help="one of `ota boards`, or a definition of your own (a path that ends in .toml)"
    )
    settings.add_argument("-o", "--out", type=Path, required=True, help="a folder that is not there yet")
    settings.add_argument("--batch", type=batch, default=1, metavar="N", help="how many boards may enrol with these settings")
    add_hours(settings)
    settings.add_argument("--no-token", action="store_true", help="for a broker that asks for no certificate")
    settings.add_argument(
        "--key",
        type=output.checked(check_board_key, empty=True),
        default="",
        metavar="URI",
        help="the board's key is in a PKCS#11 token: pkcs11:token=…;object=…?module-path=…&pin-source=…",
    )
    settings.add_argument("--json", action="store_true", help="machine-readable result")
    add_passphrase(settings)
    _add_settings(settings)
    settings.set_defaults(handler=_settings)

    enrol = commands.add_parser(
        "enrol",
        help="sign what boards ask for, with a token or with the certificate that they have, until interrupted",
        epilog="example: ota enrol --seconds 3600",
    )
    enrol.add_argument("--seconds", type=output.seconds, default=FOREVER_S, help="how long to answer (default: until Ctrl-C)")
    enrol.add_argument("--once", action="store_true", help="end after the first board that got its certificate")
    enrol.add_argument("--json", action="store_true", help="machine-readable, a line for each request")
    add_passphrase(enrol)
    enrol.set_defaults(handler=_enrol)


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--enrol-at",
        type=output.broker_url,
        metavar="URL",
        help="the broker for boards without a certificate, or with one that has expired",
    )
    command.add_argument("--group", type=output.name, help="default: the workspace's")
    broker = command.add_mutually_exclusive_group()
    broker.add_argument("--broker", type=output.broker_url, metavar="URL", help="as boards see it (default: the workspace's)")
    broker.add_argument("--no-broker", action="store_true", help="the board works alone, and is updated by bundles")
    command.add_argument(
        "--ntp",
        type=output.checked(check_time_server),
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="time server of an image of ours; may be repeated (default: what DHCP names, else Debian's)",
    )
    command.add_argument("--policy", type=Path, help="TOML: what modules may do there ([policy.grants.…], [instances.…], …)")


def _board_settings(workspace: Workspace, board: Board, arguments: argparse.Namespace) -> BoardSettings:
    made = BoardSettings(
        device=arguments.device,
        group=arguments.group or workspace.settings.group,
        board=board.name,
        broker=None if arguments.no_broker else arguments.broker or workspace.settings.broker,
        cpus=board.processor.cpus,
        policy=read_policy(arguments.policy) if arguments.policy else DEFAULT_POLICY,
        ntp=tuple(arguments.ntp),
        key=getattr(arguments, "key", ""),
    )
    made.check()
    return made


class _Operator:
    """What the flasher asks of us: settings for the board, and whether it reports."""

    def __init__(self, workspace: Workspace, board: Board, arguments: argparse.Namespace) -> None:
        self._workspace, self._board, self._arguments = workspace, board, arguments

    def settings(self, device: str, signing_request: bytes) -> Mapping[str, bytes]:
        certificate = CertificateAuthority(self._workspace).sign(signing_request, device)
        made = _board_settings(self._workspace, self._board, self._arguments)
        _expect(self._workspace, device, made.group)
        return made.files(self._workspace, certificate=certificate, enrolment=self._arguments.enrol_at)

    def check(self) -> None:
        """Raises BrokerError when the operator's broker does not answer."""
        with Broker(self._workspace.settings):
            pass

    def reported(self, device: str, agent: str, up_s: float, timeout_s: float) -> bool:
        """A broker that is away for a while does not end the trial, which has its own end."""
        try:
            with Broker(self._workspace.settings) as broker:
                found = reports.follow_one(broker, Roster(self._workspace).signers, device, timeout_s)
                return any(online and report.agent == agent and report.uptime_s <= up_s for report, online in found)
        except BrokerError as error:
            output.note(f"the report cannot be looked for: {error}")
            return False


class _WithoutBroker(_Operator):
    """Where no report can be seen: the agent has to run for a while, by what the board says."""

    flasher: Flasher

    def __init__(self, workspace: Workspace, board: Board, arguments: argparse.Namespace) -> None:
        super().__init__(workspace, board, arguments)
        self._since: float | None = None

    def settings(self, device: str, signing_request: bytes) -> Mapping[str, bytes]:
        return _board_settings(self._workspace, self._board, self._arguments).files(self._workspace)

    def check(self) -> None:
        """There is nothing to be asked."""

    def reported(self, device: str, agent: str, up_s: float, timeout_s: float) -> bool:
        """Whether it has run for ALIVE_S at each look. When it ends on trial, the launcher starts another one."""
        alive = self.flasher.alive(agent)
        self._since = (self._since or time.monotonic()) if alive else None
        time.sleep(timeout_s)
        return self._since is not None and time.monotonic() - self._since >= ALIVE_S


def _expect(workspace: Workspace, device: str, group: str) -> None:
    """The board is missed until it reports."""
    roster = Roster(workspace)
    roster.expect(device, group)
    roster.save()


def _login(arguments: argparse.Namespace) -> Login:
    def password() -> str:
        if arguments.password_file:
            try:
                return str(arguments.password_file.read_text(encoding="utf-8").strip())
            except (OSError, UnicodeDecodeError) as error:
                raise OtaError(f"{arguments.password_file}: {error}") from error
        return output.secret(f"password of {arguments.user} on the board: ")

    return Login(arguments.user, password)


def _flash(arguments: argparse.Namespace) -> int:
    board = load_board(arguments.board)
    if arguments.via == "u-boot":
        return _start_by_u_boot(board, arguments)
    workspace = open_workspace(arguments)
    if is_pattern(arguments.device):
        raise BoardError(f"{arguments.device} is for a batch of boards: `ota settings` makes their settings")
    if arguments.device:
        _board_settings(workspace, board, arguments)  # what cannot be is said before the board is touched
    wheel = find(board.processor.target, arguments.wheels)
    baud_rate = arguments.baud or board.serial.baud_rate
    operator = (_WithoutBroker if arguments.no_broker else _Operator)(workspace, board, arguments)
    with output.progress(f"{board.name} on {arguments.port}", 0) as bar:
        flasher = Flasher(
            board=board,
            wheel=wheel,
            cache=arguments.cache,
            open_line=lambda: SerialLine(arguments.port, baud_rate),
            operator=operator,
            bundle=_bundle(arguments.bundle) if arguments.bundle else b"",
            login=_login(arguments),
            device=arguments.device,
            base=arguments.base,
            provision_again=arguments.provision_again,
            set_clock=not arguments.leave_clock,
            trial_s=arguments.wait,
            note=output.note,
            progress=bar.at,
        )
        if isinstance(operator, _WithoutBroker):
            operator.flasher = flasher
        if arguments.dry_run:
            facts = flasher.look()
            if arguments.json:
                output.result_json({"device": arguments.device, "changed": False, "facts": asdict(facts)})
                return 0
            output.result(f"{board.name} on {arguments.port} could be flashed; nothing was changed")
            output.note(", ".join(f"{name} {version or 'is not there'}" for name, version in facts.packages.items()))
            return 0
        outcome = flasher.run()
    if arguments.json:
        output.result_json({"device": arguments.device} | asdict(outcome))
    else:
        before = f", before it {outcome.before}" if outcome.before and outcome.before != outcome.agent else ""
        output.result(f"{board.name} on {arguments.port} runs {outcome.agent}{before}")
    return _tell_bundle(outcome.bundle, as_json=arguments.json)


def _bundle(path: Path) -> bytes:
    """One that is whole. Raises Refused."""
    BundleFile(path)
    return path.read_bytes()


def _tell_bundle(answer: Mapping[str, Any] | None, *, as_json: bool) -> int:
    """The exit code: 0 also where there was none."""
    if answer is None:
        return 0
    if not as_json:
        why = f": {answer['reason']}: {answer['detail']}" if answer["reason"] else ""
        parts = [f"{each['instance']} {each['state']} {each['reason']}".rstrip() for each in answer["instances"]]
        output.result(f"the bundle: {answer['result']}{why}" + (f" ({', '.join(parts)})" if parts else ""))
    return {"confirmed": 0, "nothing-to-do": 0, "waiting": 3}.get(str(answer["result"]), 1)


def _start_by_u_boot(board: Board, arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        raise BoardError("--dry-run does not go with --via u-boot: there is nothing to look at before the board is switched on")
    if arguments.image is None:
        raise BoardError("--via u-boot needs --image: what `ota image build` made, with .kernel and .initramfs beside it")
    try:
        kernel, initramfs = (Path(f"{arguments.image}{end}").read_bytes() for end in (".kernel", ".initramfs"))
    except OSError as error:
        raise BoardError(f"{error.filename}: {error.strerror}") from error
    baud_rate = arguments.baud or board.serial.baud_rate
    with SerialLine(arguments.port, baud_rate) as line, output.progress(f"{board.name} on {arguments.port}", 0) as bar:
        boot = UBoot(board, Console(line), bar.at)
        output.note("switch the board on, or press its reset button")
        boot.interrupt()
        boot.boot(kernel, initramfs, kernel_command_line(board))
    if arguments.json:
        output.result_json({"board": board.name, "port": arguments.port, "sent_bytes": len(kernel) + len(initramfs)})
    else:
        output.result(f"{board.name} on {arguments.port} starts the kernel of {arguments.image}")
    return 0


def _settings(arguments: argparse.Namespace) -> int:
    workspace, board = open_workspace(arguments), load_board(arguments.board)
    made = _board_settings(workspace, board, arguments)
    if arguments.out.exists():
        raise OtaError(f"{arguments.out} is there already")
    if arguments.key and (arguments.no_token or arguments.no_broker):
        raise OtaError("--key is for a board that enrols: without a certificate nothing is opened with it")
    arguments.out.mkdir(mode=0o700, parents=True)  # now: else there could be a token that nobody has
    try:
        token = (
            ""
            if arguments.no_token or arguments.no_broker
            else make_token(workspace, arguments.device, arguments.hours, arguments.batch, made.group)
        )
        files = made.files(workspace, token=token, enrolment=arguments.enrol_at)
        for name, content in files.items():
            write_durably(arguments.out / name, content, 0o600)
    except BaseException:
        shutil.rmtree(arguments.out, ignore_errors=True)  # incomplete: it would block the next attempt
        raise
    if not is_pattern(arguments.device):
        _expect(workspace, arguments.device, made.group)
    if arguments.json:
        output.result_json({"folder": str(arguments.out), "device": arguments.device, "files": sorted(files)})
    else:
        output.result(f"{arguments.out}: settings of {arguments.device}, for `ota image build --settings`")
        if token:
            many = f"{arguments.batch} boards" if arguments.batch > 1 else "one enrolment"
            output.note(f"its token is good for {many} in the next {arguments.hours:g} hours: `ota enrol` answers")
    return 0


def _got(outcome: Outcome) -> str:
    return f"has its {'next ' if outcome.renewed else ''}certificate"


def _enrol(arguments: argparse.Namespace) -> int:
    workspace = open_workspace(arguments)
    done = 0
    with Broker(workspace.settings) as broker:
        outcomes = serve(workspace, broker, arguments.seconds, time.time)
        output.note(f"answering boards at {workspace.settings.broker}; Ctrl-C ends it")
        for outcome in outcomes:
            done += not outcome.reason and not outcome.repeated
            if arguments.json:
                output.result_json(asdict(outcome))
            else:
                why = f"refused: {outcome.reason} {outcome.detail}".rstrip()
                output.result(f"{outcome.device}: {why if outcome.reason else _got(outcome)}")
            if arguments.once and done:
                return 0
    if not done:
        raise BoardError("no board got a certificate")
    return 0
