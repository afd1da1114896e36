"""The worker process: one module, and nothing else of the board's.

It answers one request at a time on the socket that it was given. At the module's deadline the agent sends a signal that ends
interpreted code and lets it tell where it was; a moment later the agent kills. With the agent gone a timer of the kernel does.
"""

import contextlib
import errno
import signal
import socket
import sys
import time

from device_agent import sandbox
from device_agent.channel import frames
from device_agent.sandbox import confinement
from device_agent.sandbox.contract import ModuleHost
from device_agent.sandbox.devices import Devices, import_drivers, open_devices
from device_agent.sandbox.errors import ModuleError, StateRefusedError
from device_agent.sandbox.filter import open_host
from ota.errors import OtaError
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import sha256
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason, Refused
from pywamr import LoadError, PywamrError, TerminatedError, Trap, UnsupportedError, WasmFrame, runtime_version

# Workers are forked from a process that has imported this (device_agent.sandbox.zygote).
runtime_version()  # loads the library, starts nothing
import_drivers()

Asked = frames.Request | frames.Event
GRACE_S = 1.0
REHEARSAL = f"{sandbox.__path__[0]}/rehearsal.wasm"
REHEARSALS, EVENTS = 4, 8  # CPython adapts code that has run a few times


def main(channel: socket.socket) -> None:
    """The life of a worker: start, answer, end. Ends when the agent closes its end."""
    confinement.close_inherited_fds(channel)
    worker = _Worker(channel)
    try:
        worker.run()
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)


def _content(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (pathlib is not loaded: workers would share fewer of their pages)
        return file.readall()


def _read(path: str, digest: bytes) -> bytes:
    content = _content(path)
    if sha256(content) != digest:
        raise Refused(Reason.BLOB_DIGEST_MISMATCH, f"{path} is damaged on disk")
    return content


def _try_read(path: str, digest: bytes) -> bytes:
    """An image, or nothing where there is none or it is damaged: the module does without."""
    try:
        return _read(path, digest) if path else b""
    except (OSError, Refused):
        return b""


def _where(stack: tuple[WasmFrame, ...]) -> str:
    return f" in {' < '.join(frame.function for frame in stack[:8])}" if stack else ""


def _reason(error: Exception) -> tuple[Reason, str]:
    match error:
        case Refused():
            return error.reason, error.detail
        case LoadError() | UnsupportedError():
            return Reason.MODULE_INVALID, str(error)
        case Trap():
            return Reason.TRAPPED, f"{error}{_where(error.stack)}"
        case TerminatedError():
            return Reason.DEADLINE_EXCEEDED, f"it was{_where(error.stack) or ' not in its own code'}"
    return Reason.TRAPPED, f"{type(error).__name__}: {error}"


class _Worker:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._host: ModuleHost | None = None
        self._deadline_s = frames.START_DEADLINE_S

    def run(self) -> None:
        receiver = frames.Receiver()
        while self._turn(receiver):
            pass

    def _turn(self, receiver: frames.Receiver) -> bool:
        """Answers one request. Whether there may be another."""
        data = receiver.take_soon(self._channel)
        if not data:
            return False
        request = frames.decode_request(data)
        limit_s = frames.BEGIN_DEADLINE_S if isinstance(request, frames.Begin) else self._deadline_s
        for each in request.row if isinstance(request, frames.Events) else (request,):
            signal.setitimer(signal.ITIMER_REAL, limit_s + GRACE_S)
            if isinstance(self._send(self._answer(each)), frames.Failed):
                return False
        signal.setitimer(signal.ITIMER_REAL, 0)
        return True

    def _send(self, answer: frames.Answer) -> frames.Answer:
        """The bytes that were sent. An agent that is not root has a smaller socket buffer."""
        data = frames.encode_answer(answer)
        try:
            self._channel.send(data)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            answer = frames.Failed(Reason.TOO_LARGE.value, f"an answer of {len(data)} bytes: see net.core.wmem_max")
            self._channel.send(frames.encode_answer(answer))
        return answer

    def _answer(self, request: Asked) -> frames.Answer:
        calls, started = self._host.host_calls if self._host else 0, time.perf_counter_ns()

        def failed(reason: Reason, detail: str) -> frames.Failed:
            return frames.Failed(reason.value, detail, self._usage(calls, started))

        try:
            if isinstance(request, frames.Start):
                return self._start(request)
            if self._host is None:
                return frames.Failed(Reason.START_FAILED.value, "no module was started")
            return self._serve(self._host, request, calls, started)
        except ModuleError as error:
            if isinstance(request, frames.Begin):
                refused = Reason.STATE_REFUSED if isinstance(error, StateRefusedError) else Reason.START_FAILED
                return failed(refused, str(error))
            return frames.Refused(str(error), self._usage(calls, started))
        except Exception as error:  # noqa: BLE001  (an exception that guest code caused is reported as a trap is)
            return failed(*_reason(error))

    def _usage(self, calls: int, started: int) -> frames.Usage:
        """Since a request came, at which there had been so many calls of capabilities."""
        took_us = (time.perf_counter_ns() - started) // 1000
        if self._host is None:
            return frames.Usage(0, took_us, 0)
        with contextlib.suppress(OtaError, PywamrError):  # of a module that can't be asked any more
            return frames.Usage(self._host.host_calls - calls, took_us, self._host.memory_bytes)
        return frames.Usage(self._host.host_calls - calls, took_us, 0)

    def _start(self, start: frames.Start) -> frames.Ready:
        description = ModuleDescription.from_bytes(start.description)
        self._deadline_s = description.limits.deadline_ms / 1000
        wasm = _read(start.path, start.digest)
        image = _try_read(start.image, start.image_digest)
        devices = open_devices(description.capabilities, exclusive=start.devices)
        measures = self._confine(description, devices, start, len(wasm) + len(image))
        if image:
            try:
                self._host = self._load(image, description, start, devices)
                return frames.Ready(self._host.interfaces, "aot", measures)
            except (LoadError, UnsupportedError) as error:
                self._log("warn", f"the ahead-of-time image can't be used, the module is interpreted: {error}")
        self._host = self._load(wasm, description, start, devices)
        return frames.Ready(self._host.interfaces, "interpreter", measures)

    def _confine(self, description: ModuleDescription, devices: Devices, start: frames.Start, code_bytes: int) -> frozenset[str]:
        """The measures that are in force from here on."""
        folders = [(descriptor, writable) for _, descriptor, writable in devices.folders]
        measures = confinement.drop_privileges(
            description.limits.memory_pages << 16,
            folders,
            code_bytes=code_bytes,
            devices=devices.any_device,
            user=start.user,
            required=start.confinement_required,
        )
        if folders and "landlock" not in measures:
            raise Refused(Reason.CAPABILITY_DENIED, "folders are only opened where the kernel has Landlock")
        return measures

    def _load(self, code: bytes, description: ModuleDescription, start: frames.Start, devices: Devices) -> ModuleHost:
        host = open_host(code, description, start.config, self._log, devices=devices, initialise=start.devices)
        host.terminate_on(frames.TERMINATE)  # ahead of time, it obeys when it comes back from a capability
        return host

    def _serve(self, host: ModuleHost, request: Asked, calls: int, started: int) -> frames.Answer:
        match request:
            case frames.Event(topic, payload, reply_to):
                outcome = host.handle(topic, payload, reply_to)
            case frames.Tick(now_ns):
                outcome = host.tick(now_ns)
            case frames.Check():
                outcome = host.check()
            case frames.Begin(state, keys):
                outcome = host.begin(state, keys)
            case _:
                return frames.State(host.save())
        return frames.Done(outcome.messages, outcome.writes, self._usage(calls, started), outcome.reply_to)

    def _log(self, level: str, message: str) -> None:
        self._channel.send(frames.encode_answer(frames.Log(level, message)))


class _Rehearsal(_Worker):
    """A worker in the zygote itself, which neither gives up anything nor obeys a signal."""

    def answer(self, request: frames.Request, agent: socket.socket) -> frames.Answer:
        """Sends itself a request, and takes its answer."""
        agent.send(frames.encode_request(request))
        self._turn(frames.Receiver())
        while isinstance(answer := frames.decode_answer(agent.recv(frames.FRAME_LIMIT_BYTES)), frames.Log):
            pass
        return answer

    def close(self) -> None:
        """Frees the module."""
        if self._host is not None:
            self._host.close()

    def _confine(self, description: ModuleDescription, devices: Devices, start: frames.Start, code_bytes: int) -> frozenset[str]:
        return frozenset()

    def _load(self, code: bytes, description: ModuleDescription, start: frames.Start, devices: Devices) -> ModuleHost:
        return open_host(code, description, start.config, self._log, devices=devices)


def warm_up() -> None:
    """In the process that workers are forked from: does what each of them will do, with a small module of ours.

    What Python makes on the way is then there already, and shared; and after a few times it has adapted the code of each function
    to the types that it meets (PEP 659), in pages that each worker would otherwise have to itself.
    """
    capabilities = Capabilities.parse({"logging": {}, "messaging": {"publish": ["local/#"]}}, "rehearsal")
    start = frames.Start(
        REHEARSAL,
        sha256(_content(REHEARSAL)),
        ModuleDescription("rehearsal", "0", capabilities).to_bytes(),
        {"a": "b"},
        "",
        b"",
        0,
        confinement_required=True,
        devices=True,
    )
    event = frames.Events((frames.Event("local/rehearsal", b"event"),))
    begin = frames.Begin(b"", {"key": b"value"})
    requests: tuple[frames.Request, ...] = (start, begin, *(event,) * EVENTS, frames.Tick(0), frames.Check(), frames.Save())
    for _ in range(REHEARSALS):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            rehearsal = _Rehearsal(theirs)
            for request in requests:
                answer = rehearsal.answer(request, ours)
                if isinstance(answer, frames.Failed | frames.Refused):
                    raise RuntimeError(f"the rehearsal failed: {answer}")
            rehearsal.close()
