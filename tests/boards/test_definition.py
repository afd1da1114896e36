"""Board definitions: complete, and nonsense in them is refused by name."""

import pytest

from boards.definition import FOLDER, load_board, load_boards
from boards.errors import BoardError
from ota.cli.board import targets_of
from tests.support.aot import aotc, compiled
from tests.support.wat import wat

GOOD = (FOLDER / "qemu-armv7.toml").read_text()


def test_every_board_is_there():
    names = {each.name for each in load_boards()}
    assert names >= {
        "raspberry-pi-3",
        "raspberry-pi-4",
        "raspberry-pi-5",
        "raspberry-pi-zero-2-w",
        "beaglebone-black",
        "orange-pi-pc",
    }
    assert names >= {"visionfive-2", "raspi3b", "orangepi-pc"}
    assert names >= {f"{kind}-{target}" for kind in ("generic", "qemu") for target in ("aarch64", "armv7", "riscv64")}


def test_every_section_names_its_source():
    for board in load_boards():
        parts = (board.processor, board.serial, board.boot, board.image, board.qemu, *board.gpio)
        assert all(each is None or each.source.startswith("https://") for each in parts)


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
@pytest.mark.parametrize("board", load_boards(), ids=lambda board: board.name)
def test_the_compiler_knows_the_processor_of_every_board(board):
    image = compiled(wat('(module (func (export "f") (result i32) i32.const 1))'), board.processor.target, board.processor.cpu)
    assert image[:4] == b"\0aot"


def test_board_stands_for_target_and_processor_of_the_board():
    assert targets_of("raspberry-pi-4", ("x86_64", "board")) == ("x86_64", "aarch64:cortex-a72")
    assert targets_of("qemu-riscv64", ("board", "riscv64")) == ("riscv64",)
    assert targets_of("nothing-known", ("armv7",)) == ("armv7",)


def test_a_board_that_is_not_there_is_an_error_that_names_those_that_are():
    for name in ("raspberry", "../definitions/raspi3b", "", "A" * 100):
        with pytest.raises(BoardError, match=r"there is no board .*: beaglebone-black, generic-aarch64"):
            load_board(name)


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ('title = "', 'colour = "green"\ntitle = "', "there is no key colour"),
        ("cores = 2", "cores = 2\nlegs = 4", "there is no key processor.legs"),
        ("cores = 2", "cores = 0", "processor.cores must be 1 to 256"),
        ("cores = 2", 'cores = "two"', "processor.cores must be a whole number"),
        ("cores = 2", "cores = true", "processor.cores must be a whole number"),
        ("memory_mb = 256", "memory_mb = -1", "processor.memory_mb must be"),
        ('target = "armv7"', 'target = "z80"', "processor.target must be one of"),
        ('cpu = "cortex-a15"', 'cpu = "cortex a15; rm"', "processor.cpu must be the name"),
        ("baud_rate = 115200", "baud_rate = 115201", "serial.baud_rate must be one of"),
        ('device = "ttyAMA0"', 'device = "/dev/sda"', "serial.device must be a console"),
        ('loader = "u-boot"', 'loader = "grub"', "boot.loader must be"),
        ("lines = 8", "lines = 100000", "gpio.lines must be"),
        ('chip = "gpiochip0"', 'chip = "chip"', "gpio.chip must be"),
        ("[serial]", "[cereal]", "there is no key cereal"),
        ('modules = ["', 'modules = ["../../evil", "', "image.modules must be names"),
        (
            'modules = ["',
            'boot_loader = "/etc/passwd"\nboot_loader_at = 8192\nmodules = ["',
            "image.boot_loader must be a file of a package",
        ),
        ('modules = ["', 'boot_loader = "usr/lib/u/../x"\nboot_loader_at = 8192\nmodules = ["', "image.boot_loader must be a file"),
        ('modules = ["', 'boot_loader = "usr/lib/u/x"\nboot_loader_at = 7\nmodules = ["', "image.boot_loader must be a file, and"),
        ('modules = ["', 'boot_loader_at = 8192\nmodules = ["', "image.boot_loader must be a file, and"),
        ('modules = ["', 'boot_files = ["/etc/passwd"]\nmodules = ["', "image.boot_files must be files of packages"),
        ('modules = ["', 'device_trees = ["../x.dtb"]\nmodules = ["', "image.device_trees must be names"),
        ('modules = ["', 'kernel = "windows"\nmodules = ["', "image.kernel must be kernel or kernel-full"),
        ('system = "arm"', 'system = "arm"\ncard = "floppy"', "qemu.card must be"),
        ('system = "arm"', 'system = "arm"\nnetwork = "avian"', "qemu.network must be"),
        ('system = "arm"', 'system = "arm"\nuart = 9', "qemu.uart must be"),
        ("[boot]", "[boot", "Expected"),
        ("[image]", "[[image]]", "image. must be a table"),
        ('title = "', 'name = "another"\ntitle = "', "there is no key name"),
        ('system = "arm"', 'system = "riscv64"', "qemu.system must be arm or aarch64 for armv7"),
        ("[image]", '[[gpio]]\nchip = "gpiochip0"\nlines = 8\nsource = "https://x"\n[image]', "gpio names a chip twice"),
        ("memory_mb = 256", "memory_mb = 1048576", "processor.memory_mb must be at most 8192"),
        ("cores = 2", "cores = " + "9" * 5000, "integer string conversion"),
        ("cores = 2", "cores = " + "[" * 5000 + "]" * 5000, "recursion"),
        ('system = "arm"', 'system = "vax"', "qemu.system must be"),
    ],
)
def test_nonsense_is_refused(tmp_path, was, becomes, message):
    assert was in GOOD
    (tmp_path / "board.toml").write_text(GOOD.replace(was, becomes, 1))
    with pytest.raises(BoardError, match=message):
        load_board("board", tmp_path)


def test_a_missing_section_and_an_empty_source_are_refused(tmp_path):
    (tmp_path / "board.toml").write_text("title = 'x'\n")
    with pytest.raises(BoardError, match=r"board\.toml: processor is missing"):
        load_board("board", tmp_path)
    lines = ['source = ""' if line.startswith("source") else line for line in GOOD.splitlines()]
    (tmp_path / "board.toml").write_text("\n".join(lines))
    with pytest.raises(BoardError, match="source must say where this is from"):
        load_board("board", tmp_path)
