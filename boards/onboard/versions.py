"""Agents in a folder of a board, beside each other. Runs on the board: while it is flashed, and when its agent updates itself.

`python3 -m boards.onboard.versions VERB …` is how the agent asks for a step: in a process of its own, so that what it runs is not
held up. Prints one line of JSON. Standard library only. Every step can be cut off anywhere and done again; what an agent runs from
is only ever changed by a rename.

<base>/versions/<name>   agents, each whole; with a file .air in it where it came over the air
<base>/launch            starts the right one (not on images, where the system has it)
<base>/trial             names the one on trial, while there is one; trial.tried, trial.passed, trial.failed, trial.said, trial.air
<base>/confirmed         names the one that runs otherwise
<base>/previous          names the one that was confirmed before it
"""

import contextlib
import errno
import fcntl
import gzip
import json
import os
import pathlib
import py_compile
import shutil
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

Answer = dict[str, Any]
TELL_S = 1.0  # between two lines that say how far something has come
MEMBERS_LIMIT = 10_000  # files and folders of an agent
LIMIT_BYTES = 256 << 20  # of an agent, unpacked
TRAILER_BYTES = 64 << 10  # behind the last member; tar(1) fills up to 10 KiB with zeros
SPARE_BYTES = 4 << 20  # that stay free
BYTECODE = 2  # unpacked and compiled, an agent takes so many times its files
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
READ_BYTES = 1 << 20  # at once, out of a tarball: headers say how long they are
OF_THE_BOARD = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
AIR, ABOUT = ".air", "agent.json"


class Busy(Exception):
    """Another step is under way, or another agent is on trial."""


def pointer(path: pathlib.Path) -> str:
    """The name that a pointer names, "" where there is none; `launch` takes it away at any time."""
    try:
        return path.readlink().name
    except FileNotFoundError:
        return ""


def point(path: pathlib.Path, name: str) -> None:
    """Makes a pointer name something, in one step."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.symlink_to("versions/" + name)
    new.replace(path)
    sync(path.parent)


def sync(folder: pathlib.Path) -> None:
    """Waits until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(file: pathlib.Path, content: bytes, mode: int = 0o644) -> None:
    """Replaces a file, so that after a power cut it is the old or the new one, whole."""
    new = file.with_name(f".{file.name}.new")
    with new.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    new.chmod(mode)
    new.replace(file)
    sync(file.parent)


@contextlib.contextmanager
def alone(base: pathlib.Path, *, wait: bool) -> Iterator[None]:
    """One step at a time, whoever takes it. Raises Busy where another is under way and `wait` is not set."""
    base.mkdir(parents=True, exist_ok=True)
    with (base / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Busy("another agent is being unpacked") from error
        yield


def say(kind: str, at: int) -> None:
    """A line for whoever waits, with a check of its own."""
    text = f"{kind} {at}"
    os.write(1, f"\r\n@{text} {zlib.crc32(text.encode()):08x}\r\n".encode())


def teller(kind: str) -> Callable[[], None]:
    """To be called after each step of something long: says now and then how far it has come, for whoever waits."""
    count, told = 0, 0.0

    def one_more() -> None:
        nonlocal count, told
        count += 1
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            say(kind, count)

    return one_more


def unpack(file: str, folder: str, name: str) -> Answer:
    """An agent that is flashed, beside the one that runs, and its launcher. All others go but those that are pointed at."""
    base = pathlib.Path(folder)
    with alone(base, wait=True):
        prune(base, name, lambda _: True)
        target = install(pathlib.Path(file), base, name)
        write(base / "launch", (target / "launch").read_bytes(), 0o755)
    return {"installed": name}


def prepare(file: str, folder: str, name: str, unpacked_bytes: str) -> Answer:
    """An agent that came over the air, beside the one that runs: unpacked, and seen to start. What a flasher laid there stays."""
    base = pathlib.Path(folder)
    try:
        with alone(base, wait=False):
            if trial := pointer(base / "trial"):
                raise Busy(f"{trial} is on trial")
            prune(base, name, lambda version: (version / AIR).exists())
            target = install(pathlib.Path(file), base, name, limit_bytes=int(unpacked_bytes), air=True)
            about = json.loads((target / ABOUT).read_bytes())
    except Busy as error:
        return {"good": False, "reason": "agent-on-trial", "why": str(error)}
    except (ValueError, OSError, EOFError, tarfile.TarError, zlib.error) as error:
        return {"good": False, "reason": reason_of(error), "why": str(error) or type(error).__name__}
    found = probe(folder, name)
    return {"good": found["good"], "reason": "" if found["good"] else "agent-failed", "why": found["why"], "about": about}


def reason_of(error: Exception) -> str:
    """Why a tarball was not unpacked: for what the board lacks, the tarball is not to blame."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "disk-full"
    return "agent-failed" if number in OF_THE_BOARD else "agent-invalid"


def begin_air(folder: str, name: str, trial_s: str) -> Answer:
    """Puts an agent that came over the air on trial: `launch` starts it when the one that runs hands over to it."""
    base = pathlib.Path(folder)
    try:
        with alone(base, wait=False):
            if trial := pointer(base / "trial"):
                raise Busy(f"{trial} is on trial")
            if not (base / "versions" / name / ABOUT).exists():
                raise Busy(f"{name} is not there any more")
            write(base / "trial.air", f"{name}\n".encode())
            begin(base, name, int(trial_s))
    except Busy as error:
        return {"good": False, "reason": "agent-on-trial", "why": str(error)}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return {"good": False, "reason": "disk-full" if full else "agent-failed", "why": str(error)}
    return {"good": True, "reason": "", "why": ""}


def begin(base: pathlib.Path, name: str, trial_s: int) -> None:
    """The pointer comes last: without it there is no trial."""
    for old in ("trial.tried", "trial.passed", "trial.failed", "trial.said"):
        (base / old).unlink(missing_ok=True)
    write(base / "trial-seconds", f"{trial_s}\n".encode())
    point(base / "trial", name)


def prune(base: pathlib.Path, name: str, unwanted: Callable[[pathlib.Path], bool]) -> None:
    """Deletes the agents that nothing points at, where they are `unwanted`, and what is left of an interrupted step."""
    keep = {name, *pointed(base)}
    for old in (base / "versions").glob("*"):
        if old.name.endswith(".new"):
            shutil.rmtree(old)
        elif old.name not in keep and unwanted(old):
            delete(old)


def pointed(base: pathlib.Path) -> set[str]:
    """The agents that run, or may run."""
    return {pointer(base / each) for each in ("confirmed", "previous", "trial")} - {""}


def delete(version: pathlib.Path) -> None:
    """An agent is there whole, or not at all."""
    going = version.with_name(version.name + ".new")
    shutil.rmtree(going, ignore_errors=True)
    version.rename(going)
    sync(going.parent)
    shutil.rmtree(going)


def install(
    file: pathlib.Path, base: pathlib.Path, name: str, limit_bytes: int = LIMIT_BYTES, *, air: bool = False
) -> pathlib.Path:
    """The folder of an agent, whole and on disk. Raises ValueError for a tarball that is none, OSError, tarfile.TarError."""
    target, new = base / "versions" / name, base / "versions" / (name + ".new")
    if air and target.exists() and not holds(target, file, limit_bytes):
        if name in pointed(base):
            raise ValueError(f"another agent, or a damaged one, is called {name} on this board")
        delete(target)
    if not target.exists():
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            if air:
                (new / AIR).touch()
                check_room(new, limit_bytes)
            extract(file, new, limit_bytes)
            inherit(new, base / "versions" / pointer(base / "confirmed"))
            compile_all(new, target)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        os.sync()
        new.replace(target)
        sync(target.parent)
    return target


def inherit(new: pathlib.Path, present: pathlib.Path) -> None:
    """The packages that the board lacks, of the agent that runs, where the new one brings none."""
    packages = new / "packages"
    if not packages.exists() and (present / "packages").is_dir():
        shutil.copytree(present / "packages", packages, ignore=shutil.ignore_patterns("__pycache__"))


def compile_all(folder: pathlib.Path, final: pathlib.Path) -> None:
    """Bytecode beside each source, as if that lay in `final`: to compile an agent takes longer than to start one."""
    one_more, unchecked = teller("compiled"), py_compile.PycInvalidationMode.UNCHECKED_HASH
    for source in sorted(folder.rglob("*.py")):
        py_compile.compile(str(source), dfile=str(final / source.relative_to(folder)), quiet=2, invalidation_mode=unchecked)
        one_more()


def check_room(folder: pathlib.Path, unpacked_bytes: int) -> None:
    """Raises OSError where an agent of this size has no room."""
    free, needed = shutil.disk_usage(folder).free, BYTECODE * unpacked_bytes + SPARE_BYTES
    if free < needed:
        raise OSError(errno.ENOSPC, f"{free} bytes are free for an agent, {needed} are needed")


class Tarball(gzip.GzipFile):
    """A compressed tar file that is read in small pieces."""

    def read(self, size: int | None = -1) -> bytes:
        """Raises ValueError for a large piece: before memory is taken for it."""
        if size is None or not 0 <= size <= READ_BYTES:
            raise ValueError(f"the archive has a header of more than {READ_BYTES} bytes")
        return super().read(size)


def members(file: pathlib.Path, limit_bytes: int) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Plain files and folders, of `limit_bytes` at most, below where they go. Raises ValueError otherwise, OSError, TarError."""
    count, size = 0, 0
    with Tarball(file) as content, tarfile.open(fileobj=content, mode="r:") as archive:
        for member in archive:
            count, size = count + 1, size + member.size
            if count > MEMBERS_LIMIT or size > limit_bytes:
                raise ValueError(f"the archive has more than {MEMBERS_LIMIT} members, or more than {limit_bytes} bytes")
            parts = pathlib.PurePosixPath(member.name).parts
            if not parts or member.name.startswith("/") or ".." in parts or member.type not in PLAIN:
                raise ValueError(f"the archive holds {member.name!r}")
            yield archive, member
        if len(content.read(TRAILER_BYTES + 1)) > TRAILER_BYTES:  # to the end, where the checksum is
            raise ValueError(f"behind the archive there are more than {TRAILER_BYTES} bytes")


def extract(file: pathlib.Path, folder: pathlib.Path, limit_bytes: int = LIMIT_BYTES) -> None:
    """Unpacks below the folder. Raises ValueError for what may not be in an archive, or is in it twice, OSError, TarError."""
    for archive, member in members(file, limit_bytes):
        where = folder.joinpath(member.name)
        if member.isdir():
            where.mkdir(parents=True, exist_ok=True)
            continue
        where.parent.mkdir(parents=True, exist_ok=True)
        content = archive.extractfile(member)
        assert content is not None, "it is a file"
        with where.open("xb") as out:
            shutil.copyfileobj(content, out)
        where.chmod(member.mode & 0o755)  # nobody else may change what an agent runs


def holds(folder: pathlib.Path, file: pathlib.Path, limit_bytes: int) -> bool:
    """Whether a folder has what an archive has. Raises like `extract`."""
    for archive, member in members(file, limit_bytes):
        where = folder.joinpath(member.name)
        if member.isdir():
            continue
        content = archive.extractfile(member)
        assert content is not None, "it is a file"
        try:
            with where.open("rb") as present:
                if os.fstat(present.fileno()).st_size != member.size:
                    return False
                while block := content.read(1 << 16):
                    if present.read(len(block)) != block:
                        return False
        except OSError:
            return False
    return True


def probe(folder: str, name: str) -> Answer:
    """Whether an agent that was unpacked can be imported, and its runtime opened; why not; the measures of confinement."""
    code = "import device_agent.node.service, pywamr; pywamr.Runtime().close(); print(*pywamr.confine())"
    status, out, why = python(folder, name, "-c", code)
    return {"good": status == 0, "why": why or (f"it ended with status {status}" if status else ""), "measures": out.split()}


def python(folder: str, name: str, *arguments: str) -> "tuple[int, str, str]":
    """Runs Python with the packages of an agent, and tells how many modules it has imported: its status, output, and errors."""
    paths = ":".join(f"{folder}/versions/{name}/{each}" for each in ("lib", "packages"))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    one_more, said, command = teller("imported"), [], [sys.executable, "-X", "importtime", *arguments]
    pipe = subprocess.PIPE  # Python looks for packages in the present folder first
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd="/") as process:
        assert process.stdout and process.stderr  # noqa: PT018  (pipes were asked for)
        for line in process.stderr:
            if line.startswith("import time:"):
                one_more()
            else:
                said.append(line)
        out = process.stdout.read()
    return process.returncode, out, "".join(said).strip()[-600:]


_STEPS: dict[str, Callable[..., Answer]] = {"prepare": prepare, "begin": begin_air}

if __name__ == "__main__":
    os.nice(10)  # modules go first
    os.umask(0o022)
    answer = _STEPS[sys.argv[1]](*sys.argv[2:])
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
