"""A process that forks one for each job, so that none outlives its time, its memory or a crash: `serve`, and `Server` for it."""

import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CPU_S, PATIENCE_S, MEMORY_BYTES = 20, 300, 2 << 30
_SLOW = (signal.SIGXCPU, signal.SIGALRM)


@dataclass(frozen=True)
class Done:
    """How a job ended: "ok", "hang", "memory", "error" of the job's own program, or "crash"; and what it found."""

    ended: str
    found: Any = None
    note: str = ""


def serve(job: Callable[[Any], Any], cpu_s: int = CPU_S) -> None:
    """Reads a request a line, as JSON, and answers with a line; each job runs in a process of its own."""
    for line in sys.stdin:
        request = json.loads(line)
        answer = _forked(job, request, cpu_s)
        print(json.dumps(answer), flush=True)


def _forked(job: Callable[[Any], Any], request: Any, cpu_s: int) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run(job, request, writing, cpu_s)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and said:
        return json.loads(said)
    if os.WIFEXITED(status):
        return {"ended": "crash", "note": f"exit code {os.WEXITSTATUS(status)}"}
    number = os.WTERMSIG(status)
    return {"ended": "hang" if number in _SLOW else "crash", "note": signal.Signals(number).name}


def _run(job: Callable[[Any], Any], request: Any, writing: int, cpu_s: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    signal.alarm(PATIENCE_S)
    try:
        answer = {"ended": "ok", "found": job(request)}
    except MemoryError:
        answer = {"ended": "memory"}
    except BaseException as error:  # a fault of this program
        answer = {"ended": "error", "note": f"{type(error).__name__}: {error}"[:500]}
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(json.dumps(answer).encode())
    os._exit(0)


class Server:
    """A program that serves, started when it is first asked, and again when it has gone."""

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: Any) -> Done:
        """What became of a job."""
        process = self._process or self._started()
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        if not _readable(process.stdout, 2 * PATIENCE_S) or not (line := process.stdout.readline()):
            self.close()
            return Done("crash", note="the process that forks does not answer")
        return Done(**json.loads(line))

    def _started(self) -> "subprocess.Popen[str]":
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self._process

    def close(self) -> None:
        """Ends it."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            stream.close()
        self._process = None


def _readable(stream: Any, patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return bool(selector.select(max(until - time.monotonic(), 0)))
