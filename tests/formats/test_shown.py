"""Every row and every value that is shown of documents, modules and components, of each kind once in full."""

from dataclasses import replace

import pytest
import wasmtime

from ota.author.build import sign
from ota.formats import bundle, cbor, suit
from ota.formats.cbor import sha256
from ota.formats.component import COMPONENT_MAGIC
from ota.formats.cose import VerifyKey
from ota.formats.describe import describe
from ota.formats.encryption import ALGORITHM, board_key_id
from ota.formats.provenance import Kind, Provenance, text_digest
from ota.formats.reasons import Reason, Refused
from ota.formats.signed import Role
from ota.formats.trust import ROOT_TYPE
from ota.formats.wasm import MODULE_MAGIC
from ota.formats.window import Window
from ota.keyring import sign_document
from tests.formats.test_agent import ABOUT, manifest
from tests.formats.test_growth import NEW_KEY
from tests.support.documents import BOARD, GROUP_KEY, OWN_KEY, ROLE_KEYS, SAID, SEALED, SIGNER, TOKEN, UPDATE, WRITTEN
from tests.support.signing import NOW_S

RELEASE, DEPLOY, ROOT = (ROLE_KEYS[role].public.key_id for role in ("release", "deploy", "root"))
VENDOR, CLASS = "32761fdc-7dd2-510d-acb9-3e33ff78b1b2", "1b7236b1-c946-5cdd-91c0-9290f128a589"
IMAGE = f"104 bytes, sha256 {UPDATE.manifest.digest.hex()}"
DATE = "2027-01-15 08:00:00 UTC"


def rows(data: bytes) -> list[tuple[str, str]]:
    return list(describe(data).rows)


def head(kind: str, envelope: bytes, sequence: int = 1) -> list[tuple[str, str]]:
    """The rows that each manifest begins with."""
    digest, signer = sha256(envelope).hex(), RELEASE.hex()[:16]
    return [("kind", kind), ("digest", digest), ("sequence", str(sequence)), ("signed by", signer)]


OF_MODULE = [
    ("epoch", "0"),
    ("limits", "256 KiB of memory, 2000 ms an event"),
    ("capability", "logging"),
    ("capability", "messaging: publish out/#; subscribe in/#, sys/#"),
]
RELEASED = [("module", "module 1.0.0"), ("vendor", VENDOR), ("board", "generic"), ("class", CLASS), ("image", IMAGE)]


def test_a_manifest_is_shown_with_its_images():
    found = describe(UPDATE.envelope)
    no_class = "00000000-0000-0000-0000-000000000000"
    image = ("aot image", f"300 bytes, class {no_class}")
    assert list(found.rows) == [*head("manifest", UPDATE.envelope), *RELEASED, image, *OF_MODULE]
    assert found.values == {
        "kind": "manifest", "digest": UPDATE.digest, "sequence": 1, "signed_by": [RELEASE], "text": None,
        "kind_of_update": "unspecified", "vendor": VENDOR, "board": "generic", "class": CLASS,
        "image": {"bytes": 104, "sha256": UPDATE.manifest.digest}, "security_epoch": 0,
        "module": {"name": "module", "version": "1.0.0"},
        "aot_images": [{"bytes": 300, "sha256": sha256(b"x" * 300), "class": no_class}],
        "limits": UPDATE.manifest.module.limits.to_value(), "encrypted": None,
        "capabilities": {"logging": {}, "messaging": {"publish": ["out/#"], "subscribe": ["in/#", "sys/#"]}},
    }  # fmt: skip


def signed(update=UPDATE, text: bytes = b"", **module) -> bytes:
    """An update with another text and description."""
    changed = replace(
        update.manifest, text_digest=text_digest(text) if text else b"", module=replace(update.manifest.module, **module)
    )
    return sign(changed, update.blob, update.index, [ROLE_KEYS["release"]], text).envelope


def test_what_is_not_as_when_nothing_is_said_has_rows_of_its_own():
    limits = replace(UPDATE.manifest.module.limits, tick_ms=500)
    envelope = signed(kind=Kind.SECURITY, limits=limits, security_epoch=3, board="elsewhere")
    found = describe(envelope)
    assert [row for row in found.rows if row not in RELEASED] == [
        *head("manifest", envelope), ("update", "security"),
        ("aot image", "300 bytes, class 00000000-0000-0000-0000-000000000000"),
        ("epoch", "3"), OF_MODULE[1], ("timer", "every 500 ms"), *OF_MODULE[2:],
    ]  # fmt: skip
    assert (found.values["kind_of_update"], found.values["security_epoch"], found.values["board"]) == ("security", 3, "generic")


def test_what_is_said_of_a_release_is_shown_line_by_line():
    said = describe(signed(text=SAID.to_bytes()))
    about = [("origin", "oci://x/y"), ("revision", "git+https://example.com/x@1"), ("builder", "ci"),
    ("sbom", f"sha256 {'00' * 32}"),
             ("advisory", "mends it"), ("advisory", "all"), ("mends", "CVE-2026-12345")]  # fmt: skip
    assert list(said.rows[4:11]) == about
    assert said.values["text"] == {
        "revision": "git+https://example.com/x@1", "builder": "ci", "origin": "oci://x/y", "sbom_sha256": bytes(32),
        "advisory": "mends it\nall", "cves": ["CVE-2026-12345"],
    }  # fmt: skip
    little = describe(signed(text=Provenance(advisory="a\n\nb").to_bytes()))
    assert [row for row in little.rows if row not in RELEASED][4:7] == [("advisory", "a"), ("advisory", "-"), ("advisory", "b")]
    assert little.values["text"] == {
        "revision": None, "builder": None, "origin": None, "sbom_sha256": None, "advisory": "a\n\nb", "cves": [],
    }  # fmt: skip


def test_an_encrypted_module_is_shown_with_its_readers():
    found = describe(SEALED.envelope)
    ciphertext = SEALED.manifest.ciphertext
    board = board_key_id(OWN_KEY.public_key())
    readers = [("encrypted for", f"group key {GROUP_KEY.key_id.hex()}"), ("encrypted for", f"board key {board.hex()}")]
    assert list(found.rows[9:12]) == [*readers, ("ciphertext", f"sha256 {ciphertext.digest.hex()}")]
    shown = {"sha256": ciphertext.digest, "groups": [GROUP_KEY.key_id], "boards": [board], "unknown": 0}
    assert found.values["encrypted"] == shown
    value = cbor.decode(ciphertext.info, "test", 1 << 16, (96,))
    value.value[3].append([cbor.encode({ALGORITHM: -99}), {}, b"x"])
    other = replace(SEALED.manifest, ciphertext=replace(ciphertext, info=cbor.encode(value)))
    found = describe(replace(SEALED.draft, manifest=other).signed(1, ROLE_KEYS["release"]).envelope)
    assert list(found.rows[9:13]) == [
        *readers,
        ("encrypted for", "1 of unknown kinds"),
        ("ciphertext", f"sha256 {ciphertext.digest.hex()}"),
    ]
    assert found.values["encrypted"] == shown | {"unknown": 1}


def of_agent(**changes) -> bytes:
    encoded = manifest(replace(ABOUT, **changes)).to_bytes()
    return suit.encode_envelope(encoded, [ROLE_KEYS["release"].sign1(suit.signed_digest(encoded))])


def test_an_agents_manifest_is_shown():
    envelope = of_agent(kind=Kind.FUNCTIONAL)
    found = describe(envelope)
    identifier = "d42c9e1d-56f9-525e-9d13-ef520de73ec6"
    assert list(found.rows) == [
        *head("agent's manifest", envelope, 7), ("agent", "0.2.0+0123456789ab"), ("update", "functional"), ("vendor", VENDOR),
        ("board", "generic"),
        ("class", identifier), ("image", f"300000 bytes, sha256 {'01' * 32}"), ("platform", "aarch64, py311, glibc-2.17"),
        ("unpacked", "2000000 bytes"), ("epoch", "0"), ("database", "schema 4, opens 1 and later, is opened by 3 and later"),
    ]  # fmt: skip
    assert found.values == {
        "kind": "agent's manifest", "digest": sha256(envelope), "sequence": 7, "signed_by": [RELEASE], "text": None,
        "kind_of_update": "functional", "vendor": VENDOR, "board": "generic", "class": identifier,
        "image": {"bytes": 300_000, "sha256": b"\1" * 32}, "security_epoch": 0, "agent": "0.2.0+0123456789ab",
        "platform": {"architecture": "aarch64", "python": "py311", "libc": "glibc-2.17"},
        "schema": {"writes": 4, "reads": 1, "readable_by": 3}, "unpacked_bytes": 2_000_000,
    }  # fmt: skip
    assert not any(label == "update" for label, _ in rows(of_agent()))


def test_a_manifest_outside_the_profile_is_shown_with_its_commands():
    value = cbor.decode(UPDATE.manifest.to_bytes(), "test", 1 << 16)
    value[suit.VALIDATE] = cbor.encode([suit.IMAGE_MATCH, 15, suit.IMAGE_MATCH, 15])
    encoded = cbor.encode(value)
    envelope = suit.encode_envelope(encoded, [ROLE_KEYS["release"].sign1(suit.signed_digest(encoded))])
    found = describe(envelope)
    assert (found.kind, found.values["refused"]) == ("manifest", "command-unsupported")
    assert list(found.rows[:5]) == [
        *head("manifest", envelope),
        ("profile", f"not one of ours (command-unsupported: {found.values['detail']})"),
    ]
    commands = found.values["commands"]
    assert commands["validate"] == ["condition-image-match", "condition-image-match"]
    assert list(found.rows[5:]) == [("commands", f"{name}: {', '.join(each)}") for name, each in commands.items()]
    assert found.values.keys() == {"kind", "digest", "sequence", "signed_by", "text", "refused", "detail", "commands"}


def test_a_root_is_shown_with_its_keys():
    roles = dict(SIGNER.root().roles) | {"release": Role(SIGNER.root().roles["release"].keys, 1, {NEW_KEY.key_id: NEW_KEY})}
    document = SIGNER.root_document(roles=roles)
    found = describe(document)
    names = {role: key.public.key_id.hex()[:16] for role, key in ROLE_KEYS.items()}
    assert list(found.rows) == [
        ("kind", "root"), ("number", "1"), ("vendor", "test.example"), ("issued", "2027-01-15 07:43:20 UTC"),
        ("expires", "2027-05-11 01:46:40 UTC"), ("role root", f"1 of {names['root']}"),
        ("role release", f"1 of {names['release']}, {NEW_KEY.label}, not usable here"),
        ("role deploy", f"1 of {names['deploy']}"),
        ("signed by", names["root"]), ("verifies by itself", "yes"),
    ]  # fmt: skip
    assert found.values == {
        "kind": "root", "number": 1, "issued_s": NOW_S - 1000, "expires_s": NOW_S + 10_000_000, "vendor": "test.example",
        "roles": {
            "root": {"threshold": 1, "keys": [ROOT], "unusable": []},
            "release": {"threshold": 1, "keys": [RELEASE], "unusable": [NEW_KEY.label]},
            "deploy": {"threshold": 1, "keys": [DEPLOY], "unusable": []},
        },
        "signed_by": [ROOT], "verifies_by_itself": True,
    }  # fmt: skip


def test_a_draft_that_nobody_has_signed_is_told_from_the_other():
    draft = sign_document(SIGNER.root().to_payload(), ROOT_TYPE, [])
    assert [row for row in rows(draft) if row[0] in ("kind", "signed by")] == [("kind", "root"), ("signed by", "nobody")]
    unsigned = cbor.encode([cbor.decode(WRITTEN["deployment-document"], "test", 1 << 16)[0], []])
    assert [row for row in rows(unsigned) if row[0] in ("kind", "signed by")] == [("kind", "deployment"), ("signed by", "nobody")]


def test_a_document_of_another_type_is_refused():
    with pytest.raises(Refused, match="its signatures name neither a root nor a deployment as its type") as refusal:
        describe(WRITTEN["group-keys-document"])
    assert refusal.value.reason is Reason.MALFORMED


def test_a_deployment_is_shown_entry_by_entry():
    found = describe(WRITTEN["deployment-document"])
    one, gone = found.values["instances"]["module"], found.values["instances"]["gone"]
    assert list(found.rows) == [
        ("kind", "deployment"), ("group", "lab"), ("epoch", str(found.values["epoch"])), ("issued", DATE),
        ("instance", "gone"), ("  manifest", "none: it is removed"), ("  deployment", gone["deployment"].hex()),
        ("  changed", DATE),
        ("  boards", "100 %"), ("  expires", "2027-01-15 08:16:40 UTC"),
        ("instance", "module"), ("  manifest", "00" * 32), ("  deployment", one["deployment"].hex()), ("  changed", DATE),
        ("  boards", "100 % and roof-1, roof-2"), ("  expires", "2027-01-15 08:16:40 UTC"), ("  window", one["window"]),
        ("  config", "site=roof"), ("signed by", DEPLOY.hex()[:16]),
    ]  # fmt: skip
    assert found.values == {
        "kind": "deployment", "group": "lab", "epoch": found.values["epoch"], "issued_s": NOW_S, "signed_by": [DEPLOY],
        "instances": {
            "module": {
                "manifest": bytes(32), "deployment": one["deployment"], "changed_s": NOW_S, "expires_s": NOW_S + 1000,
                "percent": 100, "boards": ["roof-1", "roof-2"], "paused": False, "config": {"site": "roof"}, "together": [],
                "window": str(Window.parse({1: 31, 2: 120, 3: 120, 4: True, 5: False}, "test")),
            },
            "gone": {
                "manifest": None, "deployment": gone["deployment"], "changed_s": NOW_S, "expires_s": NOW_S + 1000, "percent": 100,
                "boards": [], "paused": False, "config": {}, "together": [], "window": None,
            },
        },
    }  # fmt: skip


def test_a_part_of_a_group_is_shown_in_percent():
    entry = SIGNER.entry(bytes(32), fraction_ppm=125_000, paused=True, expires_s=0)
    found = describe(SIGNER.document({"a": entry}, device="roof-1")[1])
    assert found.values["instances"]["a"]["percent"] == 12.5
    assert ("device", "roof-1") in found.rows
    assert ("  boards", "12.5 %, paused") in found.rows
    assert not any(label in ("group", "  window", "  together", "  config") for label, _ in found.rows)


def test_the_last_date_has_four_digits_of_a_year():
    def issued(seconds: int) -> str:
        return dict(rows(SIGNER.root_document(issued_s=seconds, expires_s=1 << 39)))["issued"]

    assert issued(253_402_300_799) == "9999-12-31 23:59:59 UTC"
    assert issued(253_402_300_800) == "253402300800 s after 1970"


def test_a_boards_report_is_shown():
    found = describe(WRITTEN["signed-report"])
    key = VerifyKey(BOARD.key.public_key()).key_id
    assert list(found.rows) == [
        ("kind", "report"), ("device", "roof-1"), ("group", "lab"), ("board", "generic"), ("agent", "0.1.0"),
        ("time s", str(NOW_S)), ("uptime s", "12"),
        ("instances", "name blink, module blink, version 1.0.0, sequence 3, slot confirmed, state confirmed, counter 0"),
        ("refusals", "document group, epoch 3, reason signer-unknown, detail why"), ("problems", "disk-full: nothing left"),
        ("counters", "events 3"), ("root", "2"), ("algorithms", "ed25519, es256"), ("counter", str(1 << 33)),
        ("journal", f"row 4, digest {'00' * 32}"), ("encryption", found.values["encryption"].hex()), ("signed by", key.hex()),
    ]  # fmt: skip


def test_an_instances_report_is_shown():
    found = describe(WRITTEN["signed-instance-report"])
    assert list(found.rows) == [
        ("kind", "instance report"), ("device", "roof-1"), ("instance", "blink"), ("time s", str(NOW_S)),
        ("running", f"name blink, version 1.0.0, manifest {'00' * 32}, slot none"), ("update", "state confirmed"),
        ("counters", "events 3"),
        ("counter", "7"), ("signed by", found.values["signed_by"].hex()),
    ]  # fmt: skip


def test_what_a_board_signed_and_is_no_report_is_refused():
    with pytest.raises(Refused, match="not a manifest, a root, a deployment, a report"):
        describe(WRITTEN["signed-logs"])


def test_tokens_and_images_are_shown_in_short():
    assert rows(TOKEN.to_text().encode()) == [("kind", "enrolment token"), ("identifier", "00" * 8)]
    assert rows(b"\0aotx") == [("kind", "ahead-of-time image"), ("bytes", "5"), ("sha256", sha256(b"\0aotx").hex())]


def packed(*messages: tuple[str, bytes]) -> bytes:
    made = bytearray()
    bundle.pack([(f"ota/v1/{topic}", lambda content=content: content) for topic, content in messages], made.extend)
    return bytes(made)


def test_a_bundle_is_shown_by_what_lies_in_it():
    one, other = "0" * 64, "1" * 64
    data = packed(("root/1", b"r"), ("group/lab/desired", b"d"), (f"blob/{one}/index", b"i"), (f"blob/{one}/0", b"c" * 1024),
                  (f"blob/{one}/1", b"c"), (f"blob/{other}/index", b"i"), (f"blob/{other}/0", b"c"))  # fmt: skip
    found = describe(data)
    assert list(found.rows) == [
        ("kind", "bundle"), ("root", "1"), ("group", "lab/desired"), ("blob", f"{one}, 2 chunks"), ("blob", f"{other}, 1 chunk"),
    ]  # fmt: skip
    assert found.values == {
        "kind": "bundle",
        "bytes": len(data),
        "members": ["root/1", "group/lab/desired"],
        "blobs": {one: 2, other: 1},
    }


def test_a_file_of_reports_is_shown_report_by_report():
    report, other = WRITTEN["signed-report"], WRITTEN["signed-instance-report"]
    found = describe(
        bundle.pack_reports([("ota/v1/device/roof-1/report", report), ("ota/v1/device/roof-1/instance/blink/report", other)])
    )
    assert list(found.rows) == [
        ("kind", "reports"), ("report", "roof-1/report"), *rows(report)[1:],
        ("report", "roof-1/instance/blink/report"), *rows(other)[1:],
    ]  # fmt: skip
    assert found.values == {"kind": "reports", "reports": [describe(report).values, describe(other).values]}


# -- WebAssembly


def made(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f"(module {text})"))


CONTRACT = """(memory (export "memory") 1) (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 0)
  (func (export "device:module/events@0.1.0#handle") (param i32 i32 i32 i32) (result i32) i32.const 0)"""
EXPORTS = ["memory", "cabi_realloc", "device:module/events@0.1.0#handle"]


def description(*lines: str) -> list[tuple[str, str]]:
    return [("its .toml", each) for each in ("[module]", 'name = "NAME"', 'version = "1.0.0"', *lines)]


def importing(*interfaces: str) -> str:
    return "".join(
        f'(import "device:module/{each}@0.1.0" "{"read" if each != "messaging" else "publish"}" (func))' for each in interfaces
    )


def test_a_module_for_boards_is_shown():
    wasm = made(importing("serial", "gpio", "messaging") + CONTRACT)
    found = describe(wasm)
    imports = ["device:module/serial@0.1.0.read", "device:module/gpio@0.1.0.read", "device:module/messaging@0.1.0.publish"]
    toml = ["[capabilities.gpio]", "inputs = []", "outputs = []", "[capabilities.serial]", "ports = []", "[capabilities.messaging]",
            'subscribe = ["in/#"]', 'publish = ["out/#"]']  # fmt: skip
    sizes = found.values["sections"]
    assert list(found.rows) == [
        ("kind", "module"), ("size", f"{len(wasm)} bytes"), ("sha256", sha256(wasm).hex()), ("memory", "1 page of 64 KiB"),
        *(("import", each) for each in imports), *(("export", each) for each in EXPORTS),
        *(("capability", each) for each in ("messaging", "gpio", "serial")), ("ability", "events"), *description(*toml),
        *(("section", f"{name}: {size} bytes") for name, size in sizes.items()),
    ]  # fmt: skip
    assert found.values == {
        "kind": "module", "bytes": len(wasm), "sha256": sha256(wasm), "made_by": [], "beyond_core": [], "sections": sizes,
        "memory_pages": 1, "imports": imports, "exports": EXPORTS, "capabilities": ["messaging", "gpio", "serial"],
        "unknown_imports": [], "what_helps": [], "abilities": ["events"],
        "description": "\n".join(text for _, text in description(*toml)) + "\n",
    }  # fmt: skip
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    assert sizes.keys() == {"import", "export", "type", "code", "function", "memory"}
    assert sizes["memory"] == 3
    assert sum(sizes.values()) + 2 * len(sizes) + 8 == len(wasm)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (CONTRACT, ["[capabilities.messaging]", 'subscribe = ["in/#"]']),
        (CONTRACT.replace(" 1)", " 16)", 1), ["[capabilities.messaging]", 'subscribe = ["in/#"]']),
        (CONTRACT.replace(" 1)", " 17)", 1), ["[limits]", "memory_pages = 33", "[capabilities.messaging]", 'subscribe = ["in/#"]']),
        (
            importing("serial") + CONTRACT,
            ["[capabilities.serial]", "ports = []", "[capabilities.messaging]", 'subscribe = ["in/#"]'],
        ),
        (
            '(import "device:module/random@0.1.0" "get" (func))' + CONTRACT,
            ["[capabilities.random]", "[capabilities.messaging]", 'subscribe = ["in/#"]'],
        ),
    ],
)
def test_a_description_is_suggested_that_has_what_the_module_needs(text, lines):
    assert [row for row in rows(made(text)) if row[0] == "its .toml"] == description(*lines)


FILTER = """(import "env" "proxy_log" (func)) (memory (export "memory") 2) (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_context_create")) (func (export "malloc")) (func (export "proxy_on_tick"))"""


def test_a_filter_is_shown_as_one():
    shown = rows(made(FILTER))
    assert [text for label, text in shown if label == "ability"] == ["events", "timer"]
    assert [row for row in shown if row[0] == "its .toml"] == description(
        "[capabilities.filter]", "[capabilities.messaging]", 'subscribe = ["in/#"]', 'publish = ["out/#"]'
    )
    assert ("memory", "2 pages of 64 KiB") in shown


def custom(name: bytes, content: bytes) -> bytes:
    body = bytes((len(name),)) + name + content
    return b"\0" + bytes((len(body),)) + body


def test_what_a_module_lacks_is_shown_and_no_description_is_suggested():
    makers = custom(b"producers", b"\1\x0cprocessed-by\2\3abc\x032.1\3def\0")
    wasm = (
        made('(import "env" "abort" (func)) (memory 3) (func (return_call 0))') + makers + custom(b"x", b"12") + custom(b"x", b"3")
    )
    found = describe(wasm)
    needs = "tail-calls, which boards do not have: use clang -mno-tail-call, rustc -C target-feature=-tail-call"
    (helps,) = found.values["what_helps"]
    lacks = "the module does not export device:module/events@0.1.0#handle, cabi_realloc, memory"
    assert list(found.rows[3:-7]) == [
        ("made by", "abc 2.1"), ("made by", "def"), ("needs", needs), ("memory", "3 pages of 64 KiB"), ("import", "env.abort"),
        ("no board has", "env.abort"), ("what helps", helps), ("lacks", lacks),
    ]  # fmt: skip
    assert all(label == "section" for label, _ in found.rows[-7:])
    assert ("section", "custom x: 3 bytes") in found.rows
    assert (found.values["made_by"], found.values["abilities"]) == (["abc 2.1", "def"], [])


@pytest.mark.parametrize("text", ['(import "env" "abort" (func))' + CONTRACT, "(memory 1)"])
def test_no_description_is_suggested_for_what_no_board_runs(text):
    assert not any(label == "its .toml" for label, _ in rows(made(text)))


def test_a_module_with_imports_in_short_is_shown_as_boards_get_it():
    compact = MODULE_MAGIC + b"\1\4\1\x60\0\0" + b"\2\x0e\1\1a\0\x7f\2\1b\0\0\1c\0\0"
    shown = rows(compact)
    assert ("imports", "`ota build` writes them out as boards read them") in shown
    assert [text for label, text in shown if label == "import"] == ["a.b", "a.c"]
    assert not any(label == "imports" for label, _ in rows(made(CONTRACT)))


def test_sections_are_named_by_their_numbers():
    names = ("type", "import", "function", "table", "memory", "global", "export", "start", "element", "code", "data", "data count",
             "tag", "number 14", "number 15")  # fmt: skip
    for number, name in enumerate(names, 1):
        shown = rows(MODULE_MAGIC + bytes((number, 1, 0)))
        assert ("section", f"{name}: 1 bytes") in shown
    assert ("section", f"custom {'n' * 100}: 1 bytes") in rows(MODULE_MAGIC + custom(b"n" * 101, b"0"))


def test_a_module_that_boards_refuse_is_shown_all_the_same():
    found = describe(made('(import "env" "memory" (memory 1))'))
    told = "import env.memory is not a function but a memory, which boards do not hand over: link without --import-memory"
    assert (found.values["refused"], found.rows[3]) == (told, ("refused", told))
    with pytest.raises(Refused, match="not a WebAssembly core module"):
        describe(b"\0asm\2\0\0\0")


def section(kind: int, content: bytes) -> bytes:
    out, value = bytearray(), len(content)
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((kind, *out, value)) + content


def test_a_component_is_shown_with_its_modules():
    core, empty = made(CONTRACT), made("(memory 1)")
    outside = section(10, b"\1\0\3a:b\1\0") + section(11, b"\1\0\3c:d\1\0\0")
    data = COMPONENT_MAGIC + outside + section(1, empty) + section(1, core) + custom(b"producers", b"\1\x08language\1\1C\0")
    found = describe(data)
    inner = describe(core)
    renamed = [(f"main {label}" if label in ("size", "sha256", "export") else label, text) for label, text in inner.rows[1:]]
    assert list(found.rows) == [
        ("kind", "component"), ("size", f"{len(data)} bytes"), ("sha256", sha256(data).hex()), ("made by", "C"),
        ("import", "a:b"),
        ("export", "c:d"), ("core module", f"{len(core)} bytes, main"), ("core module", f"{len(empty)} bytes, empty"), *renamed,
    ]  # fmt: skip
    of_module = {key: value for key, value in inner.values.items() if key != "kind"}
    assert found.values == {
        "kind": "component", "bytes": len(data), "sha256": sha256(data), "made_by": ["C"], "imports": ["a:b"], "exports": ["c:d"],
        "core_modules": [{"bytes": len(core), "role": "main"}, {"bytes": len(empty), "role": "empty"}], "module": of_module,
    }  # fmt: skip


def test_a_component_without_a_module_for_boards_says_why():
    found = describe(COMPONENT_MAGIC + section(1, made("(memory 1)")))
    told = "a component that boards can't run: none of its core modules has code of its own"
    assert found.rows[-1] == ("refused", told)
    assert (found.values["refused"], "module" in found.values) == (told, False)
