"""Lock files of packages: complete for every architecture, strict, and nothing else is accepted in a package's place."""

import hashlib
from pathlib import Path

import pytest

from boards.errors import BoardError
from boards.packages import HOSTS, KERNELS, Package, fetch, load_lock

HOST = ("tools", "emulators")
APART = (*HOST, "guest")  # sets that stand for themselves


@pytest.mark.parametrize("architecture", KERNELS)
def test_each_architecture_has_what_the_agent_needs_and_one_kernel(architecture):
    lock = load_lock(architecture)
    assert {"python3", "python3-paho-mqtt", "python3-cbor2", "python3-cryptography", "busybox-static"} <= {
        each.name for each in lock.select(["agent"])
    }
    assert len(lock.select(["kernel"])) == 1
    assert len({each.path for each in lock.packages if each.kind not in APART}) == sum(
        each.kind not in APART for each in lock.packages
    )


@pytest.mark.parametrize("architecture", HOSTS)
def test_each_host_has_its_tools(architecture):
    assert {"squashfs-tools", "mtools", "python3"} <= {each.name for each in load_lock(architecture).select(["tools"])}


@pytest.mark.parametrize(
    "line",
    [
        "agent python3 3.13 1",
        "other python3 3 1 " + "0" * 64 + " pool/x",
        "agent python3 3 0 " + "0" * 64 + " pool/x",
        "agent x 3 1 00 x",
    ],
)
def test_a_lock_with_nonsense_is_refused(tmp_path, line):
    (tmp_path / "arm64.lock").write_text(f"# Debian 13\n{line}\n")
    with pytest.raises(BoardError):
        load_lock("arm64", tmp_path)


def test_another_file_under_a_packages_name_is_refused(tmp_path, monkeypatch):
    package = Package("agent", "x", "1", 4, hashlib.sha256(b"good").hexdigest(), "pool/x.deb")
    monkeypatch.setenv("WAMR_OTA_DEBIAN", "http://archive")
    for content in (b"evil", b"good but longer"):
        monkeypatch.setattr("boards.packages._get", lambda url, size, content=content: content)
        with pytest.raises(BoardError, match="another file than the lock names"):
            fetch([package], tmp_path)
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("boards.packages._get", lambda url, size: b"good")
    assert Path(fetch([package], tmp_path)["x"]).read_bytes() == b"good"


@pytest.mark.parametrize("damaged", [b"", b"goo", b"evil"])
def test_a_damaged_file_of_the_cache_is_downloaded_again(tmp_path, monkeypatch, damaged):
    package = Package("agent", "x", "1", 4, hashlib.sha256(b"good").hexdigest(), "pool/x.deb")
    monkeypatch.setenv("WAMR_OTA_DEBIAN", "http://archive")
    monkeypatch.setattr("boards.packages._get", lambda url, size: b"good")
    file = Path(fetch([package], tmp_path)["x"])
    file.write_bytes(damaged)
    assert Path(fetch([package], tmp_path)["x"]).read_bytes() == b"good"
    monkeypatch.setattr("boards.packages._get", lambda url, size: pytest.fail("it is there"))
    assert fetch([package], tmp_path) == {"x": file}
