"""Facts about boards, one TOML file each in boards/definitions: what is read here, and nothing else, is what a file may say.

A board's name is the name of its file. It is the class that manifests are made for (`ota publish --board NAME`), and its
target and cpu are what ahead-of-time images are compiled for. Where a command wants a board, a path that ends in .toml names a
definition of one's own.
"""

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from boards.errors import BoardError

__all__ = ["Board", "Boot", "Gpio", "Image", "Processor", "Qemu", "Serial", "board_names", "load_board"]

FOLDER = Path(__file__).with_name("definitions")
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "armv7": "armhf", "riscv64": "riscv64"}
QEMU_SYSTEMS = {"x86_64": ("x86_64",), "aarch64": ("aarch64",), "armv7": ("arm", "aarch64"), "riscv64": ("riscv64",)}
BAUD_RATES = (9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600, 1500000)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_FILE = re.compile(r"usr/lib/[a-z0-9_-]+(/[A-Za-z0-9_][A-Za-z0-9._-]*){1,4}")
_CONSOLE = re.compile(r"(tty|hvc)[A-Za-z0-9]{1,12}")
_WORD = re.compile(r"[A-Za-z0-9._+,@=/-]{1,64}")
_FEATURE = re.compile(r"[a-z0-9][a-z0-9.-]{0,30}")
_SOURCE = re.compile(r"https?://[a-z0-9-]+(\.[a-z0-9-]+)+(/[^\s\x00-\x1f]*)?")
MAX_FILE_BYTES = 64 << 10
# The processors of single-board computers, as LLVM calls them. Any other one runs the baseline instruction set ("").
CPUS = {
    "x86_64": re.compile(r"x86-64(-v[234])?|(silver|gold|tre|grace)mont|alderlake|skylake|znver[1-5]"),
    "aarch64": re.compile(r"cortex-a(3[45]|5[357]|7[235678]|5[12]0|7[12]0)|cortex-x[1-4]|neoverse-[nv][12]"),
    "armv7": re.compile(r"cortex-a([5789]|1[257]|3[25]|5[37]|7[235678])"),
    "riscv64": re.compile(r"sifive-(u54|u74|x280|p450|p670)|spacemit-x60|xiangshan-nanhu"),
}


@dataclass(frozen=True)
class Processor:
    """What runs the code: an ahead-of-time target, and LLVM's name of the processor ("" for the baseline instruction set)."""

    target: str
    cpu: str
    cores: int
    memory_mb: int
    source: str
    features: tuple[str, ...] = ()  # what it has besides, as LLVM names it

    @property
    def llvm(self) -> str:
        """Processor and features in one word, such as "cortex-a53+crc"."""
        return "+".join((self.cpu, *self.features))

    @property
    def cpus(self) -> tuple[str, ...]:
        """The processors whose images a board accepts, best first, besides the baseline instruction set."""
        return tuple(dict.fromkeys(each for each in (self.llvm, self.cpu) if each))

    def check(self) -> str:
        """What is wrong with it, "" when nothing is."""
        if self.target not in DEBIAN:
            return f"target must be one of {', '.join(DEBIAN)}"
        if self.cpu and not CPUS[self.target].fullmatch(self.cpu):
            return f"cpu is no processor for {self.target}: {CPUS[self.target].pattern}"
        if len(set(self.features)) < len(self.features) or not all(_FEATURE.fullmatch(each) for each in self.features):
            return "features must be names of LLVM's, such as crc, each once"
        if not 1 <= self.cores <= 256:
            return "cores must be 1 to 256"
        return "" if 64 <= self.memory_mb <= 1 << 20 else "memory_mb must be 64 to 1048576"


@dataclass(frozen=True)
class Serial:
    """The serial console as Debian's Linux names it, such as "ttyAMA0", and its baud rate (8 bits, no parity)."""

    device: str
    baud_rate: int
    source: str

    def check(self) -> str:
        """What is wrong with it, "" when nothing is."""
        if not _CONSOLE.fullmatch(self.device):
            return "device must be a console such as ttyS0"
        return "" if self.baud_rate in BAUD_RATES else f"baud_rate must be one of {', '.join(map(str, BAUD_RATES))}"


@dataclass(frozen=True)
class Boot:
    """What starts Linux: the boot loader, and its prompt where it has one."""

    loader: str
    source: str
    prompt: str = ""

    def check(self) -> str:
        """What is wrong with it, "" when nothing is."""
        if self.loader not in ("u-boot", "raspberry-pi", "none"):
            return "loader must be u-boot, raspberry-pi or none"
        if bool(self.prompt.strip()) != (self.loader == "u-boot") or len(self.prompt) > 32:
            return "prompt must be there with u-boot, of at most 32 characters, and with nothing else"
        return ""


@dataclass(frozen=True)
class Gpio:
    """A GPIO chip as Linux names it, and how many lines it has."""

    chip: str
    lines: int
    source: str

    def check(self) -> str:
        """What is wrong with it, "" when nothing is."""
        if not re.fullmatch(r"gpiochip[0-9]{1,3}", self.chip):
            return "chip must be such as gpiochip0"
        return "" if 1 <= self.lines <= 1024 else "lines must be 1 to 1024"


@dataclass(frozen=True)
class Image:
    """What an image needs: kernel modules to find its disk and its network, and device trees where the firmware has none."""

    modules: tuple[str, ...]
    source: str
    kernel: str = "kernel"  # the set of the lock that it is in
    device_trees: tuple[str, ...] = ()  # one, or those among which the firmware chooses
    boot_loader: str = ""  # a file of the locked packages, such as usr/lib/u-boot/orangepi_pc_plus/u-boot-sunxi-with-spl.bin
    boot_loader_at: int = 0  # where on the card the processor looks for it, in bytes
    boot_files: tuple[str, ...] = ()  # files of the locked packages for the boot partition, where the processor looks for them

    def check(self) -> str:
        """What is wrong with it, "" when nothing is."""
        for key in ("modules", "device_trees", "boot_files"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                return f"{key} names one twice"
        if not self.modules or any(not re.fullmatch(r"[a-z0-9_]{1,40}", each) for each in self.modules):
            return "modules must be names of kernel modules"
        if self.kernel not in ("kernel", "kernel-full"):
            return "kernel must be kernel or kernel-full"
        if any(not _WORD.fullmatch(each) or "/" in each for each in self.device_trees):
            return "device_trees must be names of files"
        if any(not _FILE.fullmatch(each) for each in self.boot_files):
            return "boot_files must be files of packages"
        if (
            bool(self.boot_loader) != bool(self.boot_loader_at)
            or not 0 <= self.boot_loader_at < 1 << 20
            or self.boot_loader_at % 512
        ):
            return "boot_loader must be a file, and boot_loader_at where it begins: whole sectors in the first megabyte"
        return "" if not self.boot_loader or _FILE.fullmatch(self.boot_loader) else "boot_loader must be a file of a package"


@dataclass(frozen=True)
class Qemu:
    """The machine of QEMU's that comes nearest: `qemu-system-{system} -M {machine} -cpu {cpu}`."""

    system: str
    machine: str
    cpu: str
    source: str
    card: str = "virtio"  # how the card is there: as a disk of virtio, or in the machine's own slot ("sd")
    network: str = "own"  # of a machine with its own slot: its own adapter, or one on its USB ("usb")
    uart: int = 0  # which of its serial ports is the console

    def check(self) -> str:
        """What is wrong with it, "" when nothing is."""
        if self.card not in ("virtio", "sd"):
            return "card must be virtio or sd"
        if self.network not in ("own", "usb"):
            return "network must be own or usb"
        if not 0 <= self.uart < 4:
            return "uart must be 0 to 3"
        if self.system not in ("aarch64", "arm", "riscv64", "x86_64"):
            return "system must be aarch64, arm, riscv64 or x86_64"
        return "" if _WORD.fullmatch(self.machine) and _WORD.fullmatch(self.cpu) else "machine and cpu must be words"


@dataclass(frozen=True)
class Board:
    """A model of hardware."""

    name: str
    title: str
    processor: Processor
    serial: Serial
    boot: Boot
    gpio: tuple[Gpio, ...] = ()
    image: Image | None = None
    qemu: Qemu | None = None

    def check(self) -> str:
        """What does not fit together, "" when all does."""
        if not 1 <= len(self.title.strip()) <= 80:
            return "title must be 1 to 80 characters"
        chips = [each.chip for each in self.gpio]
        if len(set(chips)) < len(chips):
            return "gpio names a chip twice"
        if self.qemu is not None and self.qemu.system not in QEMU_SYSTEMS[self.processor.target]:
            return f"qemu.system must be {' or '.join(QEMU_SYSTEMS[self.processor.target])} for {self.processor.target}"
        if self.processor.target == "armv7" and self.processor.memory_mb > 8192:
            return "processor.memory_mb must be at most 8192 for armv7"
        return ""

    @property
    def debian(self) -> str:
        """Debian's name of the architecture."""
        return DEBIAN[self.processor.target]


def load_board(name: str, folder: Path = FOLDER) -> Board:
    """A board of `folder` by name, or of any file by its path. Raises BoardError naming the file, the key, and what is wrong."""
    own = name.endswith(".toml")
    path = Path(name) if own else folder / f"{name}.toml"
    if not own and (not _NAME.fullmatch(name) or not path.is_file()):
        raise BoardError(f"there is no board {name!r}: {', '.join(board_names(folder))}, or a path that ends in .toml")
    if not _NAME.fullmatch(path.stem) or path.stem == "generic":  # that one is every board's class
        raise BoardError(f"{path.name}: a board is named by its file, in small letters, digits and hyphens, and not generic")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise BoardError(f"{path.name}: larger than {MAX_FILE_BYTES} bytes")
        value = tomllib.loads(content.decode())
    except OSError as error:
        raise BoardError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BoardError(f"{path.name} is not UTF-8 text: a board definition in TOML is expected") from None
    except (ValueError, RecursionError) as error:
        raise BoardError(f"{path.name}: {error}") from error
    if "name" in value:
        raise BoardError(f"{path.name}: there is no key name: a board's name is its file's")
    board: Board = _read(Board, {**value, "name": path.stem}, path.name, "")
    return board


def board_names(folder: Path = FOLDER) -> tuple[str, ...]:
    """The names of what is defined there, in their order."""
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def _read(kind: Any, value: Any, file: str, where: str) -> Any:
    """A dataclass out of a table: every key known, every value of its type, and what it says possible."""
    if not isinstance(value, dict):
        raise BoardError(f"{file}: {where} must be a table")
    types = get_type_hints(kind)
    known = {each.name: each for each in fields(kind)}
    for key in value:
        if key not in known:
            raise BoardError(f"{file}: there is no key {where}{key}")
    found = {}
    for key, each in known.items():
        if key in value:
            found[key] = _value(types[key], value[key], file, where + key)
        elif each.default is each.default_factory:  # both MISSING
            raise BoardError(f"{file}: {where}{key} is missing")
    made = kind(**found)
    if hasattr(made, "check") and (wrong := made.check()):
        raise BoardError(f"{file}: {where}{wrong}")
    if "source" in known and not _SOURCE.fullmatch(str(found.get("source", ""))):
        raise BoardError(f"{file}: {where}source must say where this is from: an address")
    return made


def _value(kind: Any, value: Any, file: str, where: str) -> Any:
    inner = [each for each in get_args(kind) if each is not NoneType and each is not Ellipsis]
    if isinstance(value, list) and get_origin(kind) is tuple:
        return tuple(_value(inner[0], each, file, where) for each in value)
    if inner and NoneType in get_args(kind):
        return _value(inner[0], value, file, where)
    if hasattr(kind, "__dataclass_fields__"):
        return _read(kind, value, file, where + ".")
    if not isinstance(kind, type) or not isinstance(value, kind) or isinstance(value, bool):
        raise BoardError(f"{file}: {where} must be {'text' if kind is str else 'a whole number' if kind is int else 'a list'}")
    if isinstance(value, str) and not value.isprintable():
        raise BoardError(f"{file}: {where} has characters that cannot be printed")
    return value
