"""A board whose data partition cannot be read: it says so, runs its factory module from memory, and changes nothing on the card."""

import re
import shutil
import struct

import pytest

from tests.support.board_lab import BoardLab
from tests.support.lab import echo

pytestmark = [pytest.mark.emulated, pytest.mark.timeout(900)]


@pytest.fixture
def lab(tmp_path):
    made = BoardLab(tmp_path, "qemu-aarch64", extra='[instances.module]\nfactory = "/usr/lib/wamr-ota-factory"\n')
    factory = made.signer.update(echo(9), name="echo", version="9.0.0", sequence=1).save(tmp_path / "factory")
    for each in (tmp_path / "board").iterdir():
        each.unlink()
    made.board.create(tmp_path / "settings", factory=factory)
    yield made
    made.close()
    shutil.rmtree(tmp_path / "board")


@pytest.mark.full
def test_a_damaged_data_partition_is_left_alone_and_the_factory_module_runs(lab):
    lab.start()
    lab.running("9.0.0")
    lab.install(10)
    with lab.console() as console:
        console.run("echo precious > /data/home/kept; sync")
    lab.kill()
    with (lab.board.folder / "media.img").open("r+b") as card:
        card.seek(446 + 2 * 16 + 8)  # the third partition's first sector
        card.seek(struct.unpack("<I", card.read(4))[0] * 512 + 1024)
        card.write(bytes(1024))  # its superblock
    said = len(lab.log())
    lab.start()
    assert lab.running("9.0.0").running.slot == "factory"
    lab.running("10.0.0")  # the deployment is still at the broker: it is taken again, into memory
    lab.still_answers(10)
    what = r"the data partition (/dev/vd.3) cannot be read: it was not formatted again"
    assert re.search(f"storage-not-mounted: {what}", lab.report.problems[0])
    device = re.search(what, lab.log()[said:])[1]
    with lab.console() as console:
        assert "tmpfs" in console.run("grep ' /data ' /proc/mounts")
        # What a person would do: with a copy of the superblock all of it is there again.
        console.run(f"e2fsck -y -b 32768 {device}; mkdir /tmp/m && mount -o ro {device} /tmp/m", 60)
        assert console.run("cat /tmp/m/home/kept").strip() == "precious"
        console.run("umount /tmp/m; sync")
    lab.kill()
    lab.start()
    assert lab.running("10.0.0").running.slot == "confirmed"
    with lab.console() as console:
        assert console.run("cat /data/home/kept").strip() == "precious"
