"""new, build, inspect, verify, run, demo: what needs no broker of yours."""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ota.author.aot import LARGE_BYTES, Compiler, host_target
from ota.author.build import Update
from ota.author.javascript import compile_script, is_script
from ota.author.source import content
from ota.author.templates import LANGUAGES, create
from ota.cli import operator, output, registry
from ota.durable import write_durably
from ota.errors import OtaError
from ota.formats import diagnostic, manifest, suit, trust, wasm
from ota.formats.describe import describe, said_of
from ota.formats.loadable import core_module
from ota.formats.provenance import Kind
from ota.formats.reasons import Refused, naming
from ota.operator.workspace import Workspace
from ota.run_options import add_run_options


def add_commands(commands: Any) -> None:
    """Adds the verbs of this module."""
    for add in (_add_new, _add_build, _add_inspect, _add_verify, _add_run, _add_demo):
        add(commands)


def _add_new(commands: Any) -> None:
    new = commands.add_parser("new", help="begin a module", epilog="example: ota new blink --lang c")
    new.add_argument("name", type=output.name, help="its name, and that of its folder")
    new.add_argument("--lang", choices=LANGUAGES, default="c", help="default %(default)s")
    new.add_argument("--json", action="store_true", help="machine-readable result")
    new.set_defaults(handler=_new)


def _add_build(commands: Any) -> None:
    build = commands.add_parser("build", help="check and sign a module", epilog="example: ota build blink.wasm -o dist")
    build.add_argument(
        "module", type=registry.source, help="the .wasm, .js or .ts, with a .toml beside it, or oci://REGISTRY/NAME:TAG"
    )
    build.add_argument("-o", "--out", type=Path, default=Path("dist"), help="default %(default)s")
    operator.add_build_options(build)
    build.add_argument("--json", action="store_true", help="machine-readable result")
    build.set_defaults(handler=_build)


def _add_inspect(commands: Any) -> None:
    inspect = commands.add_parser(
        "inspect",
        help="say what a file is, and show it",
        epilog="example: ota inspect dist/blink-1.0.0/manifest.suit --diag",
    )
    inspect.add_argument(
        "file",
        type=registry.source,
        help="a manifest, root, deployment, report, .wasm, .js, .ts, oci://REGISTRY/NAME:TAG, enrolment token, or the folder of "
        "`ota build`",
    )
    registry.add_options(inspect, reads_description=False)
    inspect.add_argument("--diag", action="store_true", help="as CBOR diagnostic notation")
    inspect.add_argument("--json", action="store_true", help="machine-readable")
    inspect.set_defaults(handler=_inspect)


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="check a manifest's signatures, and show what it says of itself",
        epilog="example: ota verify dist/blink-1.0.0/manifest.suit",
    )
    verify.add_argument("file", type=Path, help="a manifest, or the folder of `ota build`")
    verify.add_argument("--root", type=Path, help="root document (default: the workspace's chain)")
    verify.add_argument("--json", action="store_true", help="machine-readable result")
    verify.set_defaults(handler=_verify)


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run", help="run a module here, in this process", epilog="example: ota run blink.wasm --event in/button=1 --trace"
    )
    run.add_argument(
        "module", type=registry.source, help="the .wasm, .js or .ts, with a .toml beside it, or oci://REGISTRY/NAME:TAG"
    )
    registry.add_options(run)
    add_run_options(run)
    run.add_argument("--aot", action="store_true", help="compile it for this machine first, and run that")
    run.set_defaults(handler=_run)


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="broker, board and operator on this machine", epilog="example: ota demo")
    demo.add_argument("--modules", type=Path, default=Path("build/modules"), help="built example modules (default %(default)s)")
    demo.add_argument("--fast", action="store_true", help="without pauses for the reader")
    demo.set_defaults(handler=_demo)


def _new(arguments: argparse.Namespace) -> int:
    folder = create(arguments.name, arguments.lang, Path())
    if arguments.json:
        output.result_json({"folder": str(folder), "language": arguments.lang})
    else:
        output.result(f"{folder}: README.md says how to build it")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    update = operator.build_update(operator.open_workspace(arguments), arguments)
    folder = update.save(arguments.out)
    if arguments.json:
        output.result_json({"folder": str(folder), **_about(update)})
    else:
        output.result(f"{folder}: {update.label}, sequence {update.manifest.sequence}, manifest {update.digest.hex()[:16]}")
    return 0


def _about(update: Update) -> dict[str, Any]:
    found = update.manifest
    return {"module": found.name, "version": found.version, "sequence": found.sequence, "manifest": update.digest.hex()}


def _inspect(arguments: argparse.Namespace) -> int:
    with registry.opened(arguments.file, arguments) as (path, pinned):
        return _inspect_file(path, pinned, arguments)


def _inspect_file(path: Path, pinned: str, arguments: argparse.Namespace) -> int:
    """Of an artifact in a registry, where it came from and the .toml that it has are shown, too."""
    if path.is_dir():
        Update.load(path)  # its parts are there and belong together
        path = path / "manifest.suit"
    data = content(path)
    if arguments.diag:
        try:
            output.result(diagnostic.diagnostic(data))
        except ValueError as error:
            raise OtaError(f"{path} is not CBOR: {error}") from error
        return 0
    with naming(path):
        found = describe(data)
    described = path.with_suffix(".toml").read_text("utf-8", "replace") if pinned and path.with_suffix(".toml").exists() else ""
    if arguments.json:
        origin = {"artifact": pinned, "artifact_description": described} if pinned else {}
        output.result_json({**origin, **found.values})
    else:
        about = [("artifact", pinned)] if pinned else []
        _show([*about, *(("has the .toml", line) for line in described.splitlines()), *found.rows])
    return 0


def _show(rows: Sequence[tuple[str, str]]) -> None:
    width = max((len(label) for label, _ in rows), default=0)
    for label, text in rows:
        output.result(f"{label.ljust(width)}  {text}")


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.root:
        with naming(arguments.root):
            root = trust.first_root(content(arguments.root))
    else:
        root = Workspace.open(arguments.folder).root()
    try:
        if arguments.file.is_dir():
            Update.load(arguments.file)  # its parts are there and belong together
        path = arguments.file / "manifest.suit" if arguments.file.is_dir() else arguments.file
        with naming(path):
            if (data := content(path)).startswith(b"\0asm"):
                raise OtaError(f"{path} is a module, which nobody has signed: name a manifest, or a folder that `ota build` made")
            verified = manifest.verify_any(data, root)
            said, rows = said_of(suit.Envelope.from_bytes(data, manifest.MANIFEST_LIMIT_BYTES))
    except Refused as error:
        if not arguments.json:
            raise
        output.result_json({"good": False, "reason": error.reason.value, "detail": error.detail, "root": root.number})
        return 1
    if arguments.json:
        output.result_json(
            {
                "good": True,
                "name": verified.manifest.name,
                "version": verified.manifest.version,
                "sequence": verified.manifest.sequence,
                "digest": verified.envelope_digest,
                "signers": sorted(verified.signers),
                "root": root.number,
                "kind": verified.manifest.kind.text,
                "text": said,
            }
        )
    else:
        output.result(f"good: {verified.label}, sequence {verified.manifest.sequence}, signed under root {root.number}")
        if verified.manifest.kind is not Kind.UNSPECIFIED:
            rows = [("update", verified.manifest.kind.text), *rows]
        _show(rows)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    """The runtime is the agent's; `ota` does not import it but hands over."""
    with registry.opened(arguments.module, arguments) as (path, _):
        if path.is_dir():
            there = "".join(f"; there is {each}" for each in sorted(path.glob("*.wasm"))[:1])
            raise OtaError(f"{path} is a folder: name the .wasm, .js or .ts in it{there}")
        return _run_file(compile_script(path) if is_script(path) else path, arguments)


def _run_file(path: Path, arguments: argparse.Namespace) -> int:
    module = str(path)
    command = [
        sys.executable,
        "-m",
        "device_agent",
        "--prog",
        "ota run",
        "run",
        f"./{module}" if module.startswith("-") else module,
    ]
    command += [part for event in arguments.event for part in ("--event", event)]
    command += [part for name in arguments.deny for part in ("--deny", name)]
    command += [f"--config={text}" for text in arguments.config]
    command += [part for device in arguments.device for part in ("--device", device)]
    command += [f"--ticks={arguments.ticks}"] * bool(arguments.ticks)
    command += [f"--state={arguments.state}"] * (arguments.state is not None)
    command += [f"--{name}={text}" for name in ("arg", "env", "dir") for text in getattr(arguments, name)]
    command += [f"--{name}" for name in ("trace", "json", "simulate") if getattr(arguments, name)]
    if not arguments.aot:
        return subprocess.run(command, check=False).returncode
    with naming(path):
        core = core_module(content(path))
        wasm.read(core)  # the compiler's own message would not say what is wrong
    if len(core) >= LARGE_BYTES:
        output.note(f"compiling {path.name}, {len(core) / 1e6:.1f} MB, ahead of time")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.aot"
        write_durably(image, Compiler().compile(core, host_target(), name=str(path)).image)
        return subprocess.run([*command, "--image", str(image)], check=False).returncode


def _demo(arguments: argparse.Namespace) -> int:
    from ota.demo.story import tell

    return tell(arguments.modules, pause=not arguments.fast)
