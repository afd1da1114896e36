"""The programs' table (programs.toml), and building them: WebAssembly, and natively by gcc -O2 and clang -O2.

Rust's peer is rustc's own optimised code (opt-level 3), Zig's is ReleaseFast: there is no gcc for these. All go below
build/programs; what was made from the same is not built again.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

HERE = Path(__file__).parent
DRIVERS = HERE / "drivers"
FOLDER = HERE.parents[1] / "build" / "programs"
VENDOR = FOLDER / "vendor"
ZIG = (sys.executable, "-m", "ziglang")
TRIPLES = {"aarch64": "aarch64-linux-gnu", "armv7": "arm-linux-gnueabihf", "riscv64": "riscv64-linux-gnu"}
"""By target, what gcc for it is called: the side "gcc-armv7" is arm-linux-gnueabihf-gcc's program, which needs no library."""
NATIVE = {"c": ("gcc", "clang"), "cpp": ("gcc", "clang"), "rust": ("rustc",), "zig": ("zig",)}
RUST_WASM = "wasm32-unknown-unknown"
# What wasm3 reads: no reference types, whose calls by table it does not know.
WASM_CPU = "mvp+bulk_memory+multivalue+mutable_globals+nontrapping_fptoint+sign_ext"
_ENDINGS = {"rust": "rs"}
COMMON = ("-O2", "-ffp-contract=off", "-w", "-fno-sanitize=undefined")
STANDARD = {"c": "-std=gnu11", "cpp": "-std=c++17"}


class BuildError(Exception):
    """A compiler is missing, or failed."""


@dataclass(frozen=True)
class Program:
    """A row of the table."""

    name: str
    what: str
    language: str
    crate: str = ""
    include: Sequence[str] = ()
    sources: Sequence[str] = ()
    without: Sequence[str] = ()
    flags: Sequence[str] = ()
    wasm_flags: Sequence[str] = ()
    embed: Mapping[str, str] = field(default_factory=dict)
    jumps: bool = False
    crates: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def driver(self) -> Path:
        """Our part of it."""
        return DRIVERS / f"{self.name}.{_ENDINGS.get(self.language, self.language)}"

    @property
    def natives(self) -> Sequence[str]:
        """Which compilers make a native peer, the one that counts first."""
        return NATIVE[self.language]

    @property
    def folder(self) -> Path:
        """Where it is built: `program.wasm`, and an executable by the name of each native compiler."""
        return FOLDER / self.name


def programs() -> list[Program]:
    """The table, in its order."""
    table = tomllib.loads((HERE / "programs.toml").read_text())
    return [Program(name, **row) for name, row in table.items()]


def fetch() -> None:
    """Sources of exactly the digests in Cargo.lock, by cargo."""
    wanted = hashlib.sha256((HERE / "Cargo.lock").read_bytes()).hexdigest()
    stamp = VENDOR / ".digest"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(VENDOR, ignore_errors=True)
    _run(["cargo", "vendor", "--locked", "--quiet", "--manifest-path", HERE / "Cargo.toml", VENDOR])
    stamp.write_text(wanted)


def made_from(program: Program) -> str:
    """The digest of all that a program is made from."""
    shared = (each for each in DRIVERS.iterdir() if each.suffix == ".h" or each.name in ("native.c", "no_wasi.c", "programs.rs"))
    content = [each.read_bytes() for each in (program.driver, *sorted(shared), HERE / "Cargo.lock")]
    return hashlib.sha256(b"\0".join([repr(program).encode(), *content])).hexdigest()


def build(program: Program, sides: Sequence[str] = ()) -> Path:
    """The folder with the program as WebAssembly and for its native peers (or those of `sides`). Raises BuildError."""
    fetch()
    program.folder.mkdir(parents=True, exist_ok=True)
    for side in sides or ("wasm", *program.natives):
        out = program.folder / ("program.wasm" if side == "wasm" else side)
        stamp, made_of = program.folder / f".{side}", made_from(program)
        if not (out.exists() and stamp.exists() and stamp.read_text() == made_of):
            _BUILDERS[program.language](program, side, out)
            stamp.write_text(made_of)
    return program.folder


def _build_c(program: Program, side: str, out: Path) -> None:
    compiler = _compiler(side, program.language)
    crate = VENDOR / program.crate
    folder = program.folder / f"objects-{side}"
    folder.mkdir(exist_ok=True)
    _embed(program, folder)
    include = [f"-I{each}" for each in (DRIVERS, folder, *(crate / each for each in program.include))]
    flags = [*COMMON, *program.flags]
    own = [program.driver]
    if side == "wasm":
        flags += program.wasm_flags
        include += [f"-I{DRIVERS / 'setjmp'}"] if program.jumps else []
        own.append(DRIVERS / "no_wasi.c")
    else:
        own.append(DRIVERS / "native.c")

    def compiled(source: Path) -> Path:
        language = "cpp" if source.suffix in (".cc", ".cpp") else "c"
        made = folder / f"{source.parent.name}-{source.stem}.o"
        exceptions = ["-fno-exceptions", "-fno-rtti"] if language == "cpp" else []
        _run([*_compiler(side, language), *flags, STANDARD[language], *exceptions, *include, "-c", source, "-o", made])
        return made

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, (*own, *_sources(program))))
    ending = ["-lm", "-static"] if side.startswith("gcc-") else ["-lm"]
    if side == "wasm":
        ending = ["-mexec-model=reactor", "-Wl,--export=run", "-Wl,--strip-debug"]
    _run([*compiler, "-O2", *objects, *ending, "-o", out])
    shutil.rmtree(folder)


def _compiler(side: str, language: str) -> Sequence[str]:
    name, _, target = side.partition("-")
    if name == "gcc":
        prefix = f"{TRIPLES[target]}-" if target else ""
        return (prefix + ("gcc" if language == "c" else "g++"),)
    zig = (*ZIG, "cc" if language == "c" else "c++")
    return (*zig, "-target", "wasm32-wasi", f"-mcpu={WASM_CPU}") if side == "wasm" else (*zig, "-mcpu=baseline")


def _sources(program: Program) -> Iterator[Path]:
    for pattern in program.sources:
        found = sorted((VENDOR / program.crate).glob(pattern))
        if not found:
            raise BuildError(f"{program.name}: {program.crate} has no {pattern}")
        yield from (each for each in found if not any(fnmatch(each.name, left_out) for left_out in program.without))


def _embed(program: Program, folder: Path) -> None:
    """model.h: the data that a program comes with, as arrays."""
    lines = []
    for name, path in program.embed.items():
        content = (VENDOR / program.crate / path).read_bytes()
        lines.append(f"_Alignas(16) static const unsigned char {name}[] = {{{','.join(map(str, content))}}};")
        lines.append(f"enum {{ {name}_size = {len(content)} }};")
    text = "\n".join(lines).replace("_Alignas", "alignas" if program.language == "cpp" else "_Alignas")
    (folder / "model.h").write_text(text + "\n")


def _build_rust(program: Program, side: str, out: Path) -> None:
    folder = program.folder / f"objects-{side}"
    folder.mkdir(exist_ok=True)
    target = ["--target", RUST_WASM] if side == "wasm" else []
    compiler = [rustc(), *target, "-Copt-level=3", "-Cpanic=abort", "-Ccodegen-units=1", "--cap-lints=allow", f"-L{folder}"]
    made: list[str | Path] = []
    for source, (name, flags) in _rust_sources(program).items():
        options = [
            f"--edition={_edition(source)}",
            "--crate-type=rlib",
            f"--crate-name={name}",
            *flags,
            *made,
            f"--out-dir={folder}",
        ]
        _run([*compiler, *options, source])
        made += ["--extern", f"{name}={folder}/lib{name}.rlib"]
    last = [*compiler, "--edition=2021", "--crate-name=program", *made, program.driver, "-o"]
    if side == "wasm":
        _run([*last, out, "--crate-type=cdylib", "-Cstrip=debuginfo"])
    else:
        library = folder / "lib.a"
        _run([*last, library, "--crate-type=staticlib"])
        _run(["gcc", "-O2", DRIVERS / "native.c", library, "-lpthread", "-ldl", "-lm", "-o", out])
    shutil.rmtree(folder)


def _rust_sources(program: Program) -> dict[Path, tuple[str, Sequence[str]]]:
    """What a program in Rust is compiled with, in this order: the name and the flags of each."""
    found: dict[Path, tuple[str, Sequence[str]]] = {DRIVERS / "programs.rs": ("programs", ())}
    for crate, features in program.crates.items():
        flags = [word for each in features for word in ("--cfg", each[1:] if each[0] == "=" else f'feature="{each}"')]
        found[VENDOR / crate / "src" / "lib.rs"] = (crate.replace("-", "_"), flags)
    return found


def _edition(source: Path) -> str:
    """Rust's dialect that a crate is written in: 2015 unless it says another."""
    cargo = source.parents[1] / "Cargo.toml"
    return tomllib.loads(cargo.read_text())["package"].get("edition", "2015") if cargo.exists() else "2021"


def rustc() -> str:
    """A compiler that has the library for WebAssembly; Debian's has, where its package libstd-rust-dev-wasm32 is installed."""
    for each in ("rustc", "/usr/bin/rustc"):
        command = [each, "--print", "target-libdir", "--target", RUST_WASM]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        if done.returncode == 0 and any(Path(done.stdout.strip()).glob("libcore-*")):
            return each
    raise BuildError(f"there is no rustc with a library for {RUST_WASM} (Debian: rustc libstd-rust-dev-wasm32 lld)")


def _build_zig(program: Program, side: str, out: Path) -> None:
    if side == "wasm":
        target = ["-target", "wasm32-freestanding", f"-mcpu={WASM_CPU}", "-fno-entry", "-rdynamic", "-fstrip"]
        _run([*ZIG, "build-exe", *target, "-OReleaseFast", f"-femit-bin={out}", program.driver])
        return
    library, baseline = program.folder / "lib.a", "-mcpu=baseline"
    _run([*ZIG, "build-lib", "-static", baseline, "-OReleaseFast", "-fcompiler-rt", f"-femit-bin={library}", program.driver])
    _run([*ZIG, "cc", "-O2", baseline, DRIVERS / "native.c", library, "-o", out])


_BUILDERS = {"c": _build_c, "cpp": _build_c, "rust": _build_rust, "zig": _build_zig}


def _run(command: Sequence[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, command))}\n{done.stderr[-3000:]}")


if __name__ == "__main__":
    for each in programs():
        if len(sys.argv) == 1 or each.name in sys.argv[1:]:
            try:
                print(each.name, [(i.name, i.stat().st_size) for i in build(each).iterdir() if i.is_file()], flush=True)
            except BuildError as error:
                print("FAILED", each.name, error, flush=True)
