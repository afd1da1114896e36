"""Native code inside a worker can't reach anything: not a file, a socket, another process, or the agent's database."""

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from device_agent.channel import workers
from device_agent.channel.measures import MEASURES, intolerable, lacking
from device_agent.channel.users import USERS, WorkerUsers
from device_agent.channel.workers import Confinement, Worker, WorkerFailed
from device_agent.channel.zygote import Zygote
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import sha256
from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason

ROOT = Path(__file__).parent.parent.parent
ATTEMPTS = (
    "open", "create", "openat2", "handle", "stat", "unlink", "inet", "unix", "netlink", "kill", "tgkill", "ptrace", "read-memory",
    "fork", "execute", "unshare", "bpf", "io_uring", "become-root", "limits", "memfd",
    "share-memory", "tgkill-like-mmap",
)  # fmt: skip


@pytest.fixture(scope="module")
def met(tmp_path_factory) -> dict:
    """What native code met that runs in the place of guest code in a real worker."""
    folder = tmp_path_factory.mktemp("hostile")
    library, database = folder / "attempts.so", folder / "agent.db"
    source = Path(__file__).parent / "hostile" / "attempts.c"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    database.write_text("secret")
    done = subprocess.run(
        [sys.executable, "-m", "tests.agent.hostile.drive", str(database), *ATTEMPTS, "write-to-the-agents-log", "descriptors"],
        cwd=ROOT,
        env=os.environ | {"HOSTILE_LIBRARY": str(library)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "forged" not in done.stderr
    assert database.read_text() == "secret"
    first, second = done.stdout.splitlines()
    return json.loads(first) | {"status": json.loads(second)}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_native_code_in_a_worker_can_not(met, attempt):
    if "seccomp" in met["lacking"]:
        pytest.skip("this kernel has no seccomp filters")
    assert met["found"][attempt] == errno.EPERM


def test_a_worker_holds_no_descriptor_but_its_channel_and_the_standard_three(met):
    assert met["found"]["descriptors"] == 4


def test_the_kernel_confirms_it(met):
    assert met["status"]["NoNewPrivs"] == "1"
    if "seccomp" not in met["lacking"]:
        assert met["status"]["Seccomp"] == "2"
    if os.geteuid() == 0:
        assert int(met["status"]["Uid"]) in USERS


def test_what_a_worker_lacks_is_reported_and_only_a_user_of_its_own_may_be_missing_and_only_where_the_agent_is_not_root():
    everything = frozenset(MEASURES)
    assert lacking(everything) == ()
    assert lacking(everything - {"landlock", "own-user"}) == ("landlock", "own-user")
    assert intolerable(everything - {"own-user"}, root=True) == ("own-user",)
    assert intolerable(everything - {"own-user"}, root=False) == ()
    for each in MEASURES[:-1]:
        assert intolerable(everything - {each}, root=False) == (each,)


def start_on_a_system_that_lacks(what, folder, monkeypatch, *, required):
    """The worker after its start, or why it failed; and what its module logged."""
    monkeypatch.setenv("LACKING", what)
    zygote = Zygote("tests.agent.hostile.unconfined")
    monkeypatch.setattr(workers, "zygote", zygote)
    (folder / "blob").write_bytes(b"module")
    spec = workers.ModuleSpec(ModuleDescription("m", "1", Capabilities({})), folder / "blob", sha256(b"module"), {})
    confinement = Confinement(required, WorkerUsers(lock=folder / "users"))
    logged = []

    async def start():
        worker = Worker(spec, lambda _, level, text: logged.append((level, text)), confinement=confinement)
        try:
            await worker.start()
        except WorkerFailed as failure:
            return failure
        finally:
            worker.kill()
        return worker

    try:
        return asyncio.run(start()), logged
    finally:
        zygote.close()


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give workers users")


@pytest.mark.parametrize("measure", [*MEASURES[:-1], pytest.param("own-user", marks=as_root)])
def test_where_confinement_is_required_a_worker_that_lacks_a_measure_ends_before_guest_code(measure, tmp_path, monkeypatch):
    failure, logged = start_on_a_system_that_lacks(measure, tmp_path, monkeypatch, required=True)
    assert failure.reason is Reason.CONFINEMENT_LACKING
    assert f"cannot confine a module by {measure}" in failure.detail
    assert '[policy] confinement = "best-effort"' in failure.detail
    assert logged == []


@as_root
def test_a_setuid_that_fails_is_told_with_its_cause(tmp_path, monkeypatch):
    failure, _ = start_on_a_system_that_lacks("own-user", tmp_path, monkeypatch, required=True)
    assert "own-user (user " in failure.detail
    assert "Operation not permitted" in failure.detail


@pytest.mark.parametrize("measure", [*MEASURES[:-1], pytest.param("own-user", marks=as_root)])
def test_where_confinement_is_best_effort_a_module_runs_and_what_is_missing_is_reported(measure, tmp_path, monkeypatch, caplog):
    worker, logged = start_on_a_system_that_lacks(measure, tmp_path, monkeypatch, required=False)
    assert measure in worker.lacking
    assert ("info", "guest code runs") in logged
    assert "m 1 runs without" in caplog.text


def test_an_agent_that_is_not_root_reports_that_its_workers_have_no_user_of_their_own():
    code = (
        "import os, encodings.ascii, pywamr; from device_agent.sandbox import confinement;"
        "from device_agent.channel.measures import lacking;"
        "pywamr.runtime_version(); os.geteuid() or os.setresuid(60704, 60704, 60704);"
        "print(lacking(confinement.drop_privileges(1 << 20)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "('own-user',)", done.stderr


CAPABILITIES = """
import os, sys, encodings.ascii, pywamr
from device_agent.sandbox import confinement
from device_agent.channel.measures import lacking
pywamr.runtime_version()
status = os.open("/proc/self/status", os.O_RDONLY)
missing = lacking(confinement.drop_privileges(1 << 20, user=int(sys.argv[1]), required=False))
lines = dict(each.split(":", 1) for each in os.read(status, 1 << 16).decode().splitlines())
print(*(int(lines[f"Cap{each}"], 16) for each in ("Inh", "Prm", "Eff", "Amb")), *missing)
"""


@as_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="starts an agent with other privileges by setpriv")
@pytest.mark.parametrize(
    ("how", "user", "missing"),
    [
        (["--securebits", "+no_setuid_fixup"], 60704, []),
        (["--bounding-set", "-setuid"], 60704, ["own-user"]),
        (["--reuid", "60704", "--clear-groups", "--inh-caps", "+kill,+setuid", "--ambient-caps", "+kill,+setuid"], 0, ["own-user"]),
    ],
    ids=["that keeps them when the user changes", "that cannot change the user", "that is not root and was given some"],
)
def test_a_worker_has_no_capability_of_an_agent(how, user, missing):
    command = ["setpriv", *how, sys.executable, "-c", CAPABILITIES, str(user)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["0", "0", "0", "0", *missing], done.stderr


class TestUsers:
    """Which users workers get."""

    @pytest.fixture(autouse=True)
    def system(self, tmp_path, monkeypatch):
        """Accounts and processes of a system of our own."""
        for name in ("passwd", "group"):
            (tmp_path / name).touch()
        (tmp_path / "proc").mkdir()
        monkeypatch.setattr("device_agent.channel.users.ACCOUNTS", (tmp_path / "passwd", tmp_path / "group"))
        monkeypatch.setattr("device_agent.channel.users.PROCESSES", tmp_path / "proc")
        self.folder = tmp_path
        self.users = WorkerUsers(range(1001, 1004), tmp_path / "run" / "users")

    def test_two_live_workers_never_share_one_and_the_last_used_comes_last(self):
        assert [self.users.take() for _ in range(3)] == [1001, 1002, 1003]
        with pytest.raises(OSError, match="all users from 1001 to 1003 are in use"):
            self.users.take()
        self.users.give_back(1003)
        self.users.give_back(1001)
        self.users.give_back(1001)
        assert self.users.take() == 1001
        assert self.users.take() == 1003

    def test_a_user_or_group_that_has_an_account_is_passed_over(self):
        (self.folder / "passwd").write_text("# comment\nroot:x:0:0:root:/root:/bin/sh\nalice:x:1001:1:::\n")
        (self.folder / "group").write_text("wheel:x:1002:alice\n")
        assert self.users.take() == 1003

    @as_root
    def test_a_user_that_a_process_still_runs_as_is_passed_over(self):
        """A worker may outlive its agent for a while."""
        (self.folder / "proc" / "4711").mkdir()
        os.chown(self.folder / "proc" / "4711", 1001, 1001)
        assert self.users.take() == 1002

    def test_a_user_that_another_agent_of_this_system_has_taken_is_passed_over_until_that_agent_ends(self):
        code = (
            "import sys, pathlib; from device_agent.channel.users import WorkerUsers;"
            "print(WorkerUsers(range(1001, 1004), pathlib.Path(sys.argv[1])).take(), flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code, str(self.folder / "run" / "users")]
        with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout.readline() == "1001\n"
            assert self.users.take() == 1002
            other.stdin.close()
        assert self.users.take() == 1003
        assert self.users.take() == 1001

    def test_the_range_is_one_that_systemd_does_not_hand_out_and_that_containers_have(self):
        dynamic, greeters, home = range(61184, 65520), range(60578, 60706), range(60001, 60514)
        for each in (dynamic, greeters, home, range(60001)):
            assert not set(each) & set(USERS)
        assert USERS[-1] < 65534


@as_root
def test_live_workers_run_as_different_users_of_the_range(tmp_path, monkeypatch):
    monkeypatch.setenv("LACKING", "nothing")
    zygote = Zygote("tests.agent.hostile.unconfined")
    monkeypatch.setattr(workers, "zygote", zygote)
    (tmp_path / "blob").write_bytes(b"module")
    spec = workers.ModuleSpec(ModuleDescription("m", "1", Capabilities({})), tmp_path / "blob", sha256(b"module"), {})
    confinement = Confinement(True, WorkerUsers(lock=tmp_path / "users"))

    async def start():
        found = []
        for _ in range(4):
            found.append(Worker(spec, lambda *_: None, confinement=confinement))
            await found[-1].start()
        users = [Path(f"/proc/{each.pid}").stat().st_uid for each in found]
        for each in found:
            each.kill()
        return users

    try:
        users = asyncio.run(start())
    finally:
        zygote.close()
    assert len(set(users)) == 4
    assert set(users) <= set(USERS)
