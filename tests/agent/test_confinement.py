"""Native code inside a worker can't reach anything: not a file, a socket, another process, or the agent's database."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
        timeout=60,
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
        assert 61184 <= int(met["status"]["Uid"]) < 65184


def test_what_the_kernel_lacks_is_said():
    from device_agent.channel.measures import MEASURES, lacking

    everything = frozenset(MEASURES)
    assert lacking(everything) == ()
    assert lacking(everything - {"landlock"}) == ("landlock",)
