"""Board definitions: complete, and nonsense in them is refused by name."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boards.definition import CPUS, FOLDER, MAX_FILE_BYTES, board_names, load_board
from boards.errors import BoardError
from ota.cli import board as commands
from ota.cli.board import targets_of
from ota.cli.main import main
from tests.support.aot import aotc, compiled
from tests.support.wat import wat

GOOD = (FOLDER / "qemu-armv7.toml").read_text()
EXAMPLES = {
    "x86_64": ("x86-64", "x86-64-v3", "goldmont", "znver2"),
    "aarch64": ("cortex-a35", "cortex-a53", "cortex-a72", "cortex-a76", "cortex-x1", "neoverse-n1"),
    "armv7": ("cortex-a5", "cortex-a7", "cortex-a8", "cortex-a9", "cortex-a15", "cortex-a32", "cortex-a53"),
    "riscv64": ("sifive-u54", "sifive-u74"),
}
BOARDS = tuple(map(load_board, board_names()))


def test_every_board_is_there():
    names = set(board_names())
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
    for board in BOARDS:
        parts = (board.processor, board.serial, board.boot, board.image, board.qemu, *board.gpio)
        assert all(each is None or each.source.startswith("https://") for each in parts)


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_the_compiler_knows_the_processor_of_every_board(board):
    image = compiled(wat('(module (func (export "f") (result i32) i32.const 1))'), board.processor.target, board.processor.llvm)
    assert image[:4] == b"\0aot"


@pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")
@pytest.mark.parametrize(("target", "cpu"), [(target, cpu) for target, cpus in EXAMPLES.items() for cpu in cpus])
def test_the_compiler_knows_the_processors_that_definitions_may_name(target, cpu):
    assert CPUS[target].fullmatch(cpu)
    assert compiled(wat('(module (func (export "f") (result i32) i32.const 1))'), target, cpu)[:4] == b"\0aot"


def test_board_stands_for_target_and_processor_of_the_board():
    assert targets_of("raspberry-pi-4", ("x86_64", "board")) == ("x86_64", "aarch64:cortex-a72")
    assert targets_of("qemu-riscv64", ("board", "riscv64")) == ("riscv64",)
    assert targets_of("nothing-known", ("armv7",)) == ("armv7",)


def test_features_of_a_board_go_to_the_compiler_and_to_its_settings(tmp_path):
    (tmp_path / "board.toml").write_text(GOOD.replace("cores = 2", 'cores = 2\nfeatures = ["crc", "neon"]'))
    assert load_board("board", tmp_path).processor.llvm == "cortex-a15+crc+neon"
    assert targets_of(str(tmp_path / "board.toml"), ("board",)) == ("armv7:cortex-a15+crc+neon",)
    assert load_board("board", tmp_path).processor.cpus == ("cortex-a15+crc+neon", "cortex-a15")
    assert load_board("generic-armv7").processor.cpus == ()
    assert commands.class_of(str(tmp_path / "board.toml")) == "board"


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
        ('cpu = "cortex-a15"', 'cpu = "cortex a15; rm"', "processor.cpu is no processor for armv7"),
        ('cpu = "cortex-a15"', 'cpu = "sifive-u74"', "processor.cpu is no processor for armv7"),
        ('cpu = "cortex-a15"', 'cpu = "cortex-a76\\u001b[2J"', "processor.cpu has characters that cannot be printed"),
        ('title = "', 'title = "\\u0007', "title has characters that cannot be printed"),
        ('title = "', 'title = ""#', "title must be 1 to 80 characters"),
        ('prompt = "=> "', 'prompt = " "', "boot.prompt must be there with u-boot"),
        ('loader = "u-boot"', 'loader = "none"', "boot.prompt must be there with u-boot, .* and with nothing else"),
        ('source = "https://', 'source = "https://nowhere"#', "source must say where this is from"),
        ('modules = ["', 'modules = ["ext4", "ext4", "', "image.modules names one twice"),
        ("modules = [", "modules = [] #", "image.modules must be names"),
        ("cores = 2", 'cores = 2\nfeatures = ["neon", "neon"]', "processor.features must be names"),
        ("cores = 2", 'cores = 2\nfeatures = ["neon,+crc"]', "processor.features must be names"),
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
        ("[image]", '[[gpio]]\nchip = "gpiochip0"\nlines = 8\nsource = "https://a.b"\n[image]', "gpio names a chip twice"),
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


def test_a_definition_of_ones_own_is_named_by_its_path(tmp_path, capsys):
    (tmp_path / "my-board.toml").write_text(GOOD)
    assert main(["boards", "show", str(tmp_path / "my-board.toml")]) == 0
    shown = capsys.readouterr().out
    assert "my-board" in shown
    assert "()" not in shown
    (tmp_path / "My Board.toml").write_text(GOOD)
    assert main(["boards", "show", str(tmp_path / "My Board.toml")]) == 1
    assert "a board is named by its file" in capsys.readouterr().err
    (tmp_path / "generic.toml").write_text(GOOD)
    with pytest.raises(BoardError, match="and not generic"):
        commands.class_of(str(tmp_path / "generic.toml"))
    assert main(["boards", "show", str(tmp_path / "none.toml")]) == 1
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "folder.toml").mkdir()
    assert main(["boards", "show", str(tmp_path / "folder.toml")]) == 1
    assert "Is a directory" in capsys.readouterr().err
    (tmp_path / "vast.toml").write_text("# " + "x" * MAX_FILE_BYTES)
    assert main(["boards", "show", str(tmp_path / "vast.toml")]) == 1
    assert "larger than 65536 bytes" in capsys.readouterr().err
    (tmp_path / "other.toml").write_bytes(b"title = '\xff'")
    assert main(["boards", "show", str(tmp_path / "other.toml")]) == 1
    assert "other.toml is not UTF-8 text" in capsys.readouterr().err


def test_one_bad_definition_does_not_hide_the_others(tmp_path, capsys, monkeypatch):
    for name, text in (("good", GOOD), ("bad", GOOD.replace("cores = 2", "cores = 0"))):
        (tmp_path / f"{name}.toml").write_text(text)
    monkeypatch.setattr(commands, "board_names", lambda: [str(path) for path in sorted(tmp_path.glob("*.toml"))])
    assert main(["boards"]) == 1
    said = capsys.readouterr()
    assert "good  " in said.out
    assert "bad.toml: processor.cores must be 1 to 256" in said.err


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_value_anywhere_is_read_or_refused_with_the_file_named(tmp_path, data):
    """Whatever stands in the place of a value: nothing but BoardError comes out of it."""
    lines = GOOD.splitlines()
    at = data.draw(st.sampled_from([index for index, line in enumerate(lines) if " = " in line]))
    value = data.draw(
        st.sampled_from(
            ["1979-05-27", "inf", "nan", "-1", "1.5", "''", "{}", "[]", "[[1]]", "true", "{a = 1}", "'x'", "[{}]", "9e99"]
        )
    )
    lines[at] = f"{lines[at].split(' = ')[0]} = {value}"
    (tmp_path / "board.toml").write_text("\n".join(lines))
    try:
        board = load_board("board", tmp_path)
    except BoardError as error:
        assert str(error).startswith("board.toml: ")
    else:
        assert board.name == "board"
