"""Filters made with the Rust crate `proxy-wasm`, unchanged: the example, and one that calls all host functions that boards have."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pywamr import Trap
from tests.conftest import ROOT
from tests.support.filter_wat import opened

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
GUARD = ROOT / "sdk" / "filters" / "guard"
WIDE = ROOT / "tests" / "agent" / "filters" / "wide.rs"


def cargo() -> dict[str, str] | None:
    """Variables for a cargo and a rustc of one version that has the target; Debian 12 has them beside a newer pair."""
    for folder in (Path(shutil.which("rustc") or "/").parent, Path("/usr/bin")):
        tools = {"CARGO": str(folder / "cargo"), "RUSTC": str(folder / "rustc")}
        if not all(Path(each).exists() for each in tools.values()):
            continue
        done = subprocess.run([tools["RUSTC"], "--print", "sysroot"], capture_output=True, text=True, check=False)
        if (Path(done.stdout.strip()) / "lib/rustlib/wasm32-unknown-unknown").is_dir():
            return tools
    return None


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Builds a source with the example's Cargo.toml. The crate comes by cargo; an old cargo builds what a new one fetched."""
    tools = cargo()
    if tools is None or shutil.which("cargo") is None:
        pytest.skip("no cargo and rustc with the target wasm32-unknown-unknown")
    folder = tmp_path_factory.mktemp("filters") / "guard"
    shutil.copytree(GUARD, folder)
    subprocess.run(["cargo", "vendor", "--locked", "-q", "vendor"], cwd=folder, check=True, capture_output=True)
    (folder / ".cargo").mkdir()
    (folder / ".cargo" / "config.toml").write_text(
        '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "vendor"\n'
        '[target.wasm32-unknown-unknown]\nlinker = "wasm-ld"\nrustflags = ["-C", "linker-flavor=wasm-ld"]\n'
    )
    command = [tools["CARGO"], "build", "--offline", "--release", "--target", "wasm32-unknown-unknown"]
    environment = {"RUSTC": tools["RUSTC"], "CARGO_HOME": str(folder.parent / "home"), "PATH": "/usr/bin:/bin"}

    def built(source: Path) -> bytes:
        shutil.copy(source, folder / "src" / "lib.rs")
        subprocess.run(command, cwd=folder, check=True, env=environment)
        return (folder / "target/wasm32-unknown-unknown/release/guard.wasm").read_bytes()

    return built


def test_a_filter_made_with_the_rust_crate_runs_unchanged(build):
    """The crate imports all 32 functions."""
    wasm = build(GUARD / "src" / "lib.rs")
    lines: list = []
    topics = {"publish": ["clean/#", "local/#"], "subscribe": ["raw/#"]}
    host = opened(wasm, {"routes": "raw/#=clean/#", "configuration": "secret"}, lines, messaging=topics)
    assert host.handle("raw/door", b"secret open").messages == (("clean/door", b"open"),)
    assert host.handle("raw/door", b"open").messages == ()
    assert ("info", "without the token: /raw/door") in lines
    asked = b"GET /a HTTP/1.1\r\nReply-To: local/me\r\n"
    ((topic, answer),) = host.handle("raw/x", asked + b"\r\n").messages
    assert (topic, answer[:14]) == ("local/me", b"HTTP/1.1 403 \r")
    ((topic, passed),) = host.handle("raw/x", asked + b"X-Token: secret\r\n\r\n").messages
    assert topic == "clean/x"
    assert b"x-checked: guard" in passed
    assert b"x-token" not in passed


def request(wanted: bytes) -> bytes:
    return b"POST /p?q HTTP/1.1\r\nHost: roof\r\nX-Do: " + wanted + b"\r\nReply-To: answers/me\r\n\r\nabc"


def test_a_filter_that_calls_every_host_function_runs_unchanged(build):
    wasm = build(WIDE)
    lines: list = []
    host = opened(wasm, {"routes": "raw/#=clean/#", "configuration": "c"}, lines)
    said = [text for _, text in lines]
    assert said[:2] == ["vm start 0 None", 'configure 1 Some(Ok("c"))']
    assert said[2:] == ["gauge Ok(18446744073709551614)", "no metric Err(NotFound)", "falls Err(BadArgument)", "level Ok(Trace)"]
    del lines[:]
    outcome = host.handle("raw/x", b"body")
    assert outcome.messages == (("clean/x", b"<body>"),)
    assert [(each.key, each.value) for each in outcome.writes] == [("count", b"1")]
    assert [text for _, text in lines] == [
        'headers 5 false [(":method", "POST"), (":path", "/raw/x"), (":authority", "f"), (":scheme", "mqtt"), '
        '("content-length", "4")]',
        "bytes 5",
        "trailers [] []",
        "answers None None",
        'path Some(Ok("/raw/x"))',
        "no property None",
        "later true",
        "messages Ok(1)",
        "stale true",
        'count Some(Ok("1"))',
        "context Err(BadArgument)",
        'both Some("1,2")',
        "body 4 true Some([98, 111, 100, 121])",
        "beyond None",
        "map Ok(Some([52]))",
        "done 2",
        'log 2 Some("/raw/x")',
    ]
    head = b"POST /p?q HTTP/1.1\r\nhost: roof\r\nx-do: pass\r\nreply-to: answers/me\r\nx-set: 1\r\nx-added: 1\r\nx-added: 2\r\n"
    passed = head + b"x-replaced: 3\r\nx-bytes: 4\r\ncontent-length: 5\r\n\r\n<abc>"
    assert host.handle("raw/x", request(b"pass")).messages == (("clean/x", passed),)
    ((topic, answer),) = host.handle("raw/x", request(b"answer")).messages
    assert (topic, answer) == ("answers/me", b"HTTP/1.1 299 \r\nx-made-by: wide\r\ncontent-length: 8\r\n\r\nanswered")
    assert host.handle("raw/x", request(b"reset")).messages == ()
    assert host.handle("raw/x", request(b"hold")).messages == ()
    assert host.handle("raw/x", request(b"resume")).messages[0][0] == "clean/x"
    host._ticked_ns -= 20_000_000
    assert [(each.key, each.value) for each in host.tick(0).writes] == [("ticks", b"1")]


@pytest.mark.parametrize("wanted", [b"call", b"queue", b"property"])
def test_what_a_board_does_not_have_ends_a_filter_of_the_crate_and_its_log_says_why(build, wanted):
    lines: list = []
    host = opened(build(WIDE), log=lines)
    with pytest.raises(Trap, match="unreachable"):
        host.handle("raw/x", request(wanted))
    assert any(level == "error" and "unexpected status: 12" in text for level, text in lines)
