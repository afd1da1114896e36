"""Ahead-of-time images from publish to report: taken where they fit, and the .wasm where they do not."""

import pytest

from ota.author.aot import AotError, Compiler, host_target
from ota.formats.capabilities import ABI
from ota.formats.manifest import image_class_id, vendor_id
from pywamr import aot_target
from tests.support.aot import aotc, compiled
from tests.support.lab import echo
from tests.support.signing import VENDOR
from tests.support.wat import contract_module

pytestmark = pytest.mark.skipif(aotc() is None, reason="wamr_aotc is not built: make aotc")


def identifier(flags: str | None = None, cpu: str = "") -> bytes:
    return image_class_id(vendor_id(VENDOR), "generic", flags or aot_target(), cpu, ABI)


def deploy(lab, version: int, images) -> str:
    """Deploys an echo module with images; returns the mode that it then runs in."""
    wasm, name = echo(version), f"{version}.0.0"
    made = tuple((identifier, image(wasm)) for identifier, image in images)
    deployment = lab.deploy(lab.signer.update(wasm, name="echo", version=name, aot=made))
    lab.wait_state("confirmed", deployment=deployment)
    lab.running(name)
    lab.still_answers(version)
    return lab.report.running.mode


def test_an_image_that_fits_is_run_and_survives_a_power_cut(lab):
    lab.start()
    assert deploy(lab, 1, [(identifier(), compiled)]) == "aot"
    lab.kill()
    lab.start()
    lab.running("1.0.0")
    lab.still_answers(1)
    assert lab.report.running.mode == "aot"
    assert deploy(lab, 2, []) == "interpreter"


def test_an_image_that_does_not_fit_gives_way_to_the_module(lab):
    lab.start()
    target = host_target()
    other_flags = identifier(f"3 {target} bounds=other")
    assert deploy(lab, 1, [(other_flags, compiled)]) == "interpreter"
    number, rest = aot_target().split(" ", 1)  # as an agent with another version of the runtime says it
    assert deploy(lab, 6, [(identifier(f"{int(number) + 1} {rest}"), compiled)]) == "interpreter"
    assert deploy(lab, 2, [(identifier(cpu="another"), compiled)]) == "interpreter"
    # Signed for this class by mistake, and yet another target's: the runtime itself refuses it.
    other = "aarch64" if target != "aarch64" else "x86_64"
    assert deploy(lab, 3, [(identifier(), lambda wasm: compiled(wasm, other))]) == "interpreter"
    assert deploy(lab, 4, [(identifier(), lambda wasm: b"no image")]) == "interpreter"
    assert deploy(lab, 5, [(identifier(), compiled)]) == "aot"


def test_an_image_for_features_is_taken_by_boards_that_have_them_in_whatever_order():
    wasm = echo(1)
    more = {"x86_64": "popcnt+avx2", "aarch64": "crc+aes"}.get(host_target(), "")
    if not more:
        pytest.skip("no features of this machine are known")
    image = Compiler().compile(wasm, host_target(), f"+{more}").image
    assert image != Compiler().compile(wasm, host_target()).image
    one, other = more.split("+")
    assert identifier(cpu=f"+{one}+{other}") == identifier(cpu=f"+{other}+{one}+{one}")
    assert len({identifier(cpu=each) for each in ("", f"+{one}", f"+{more}", "generic")}) == 4
    with pytest.raises(AotError, match="is not a recognized feature"):
        Compiler().compile(wasm, host_target(), "+flying")
    with pytest.raises(AotError, match="too many"):
        Compiler().compile(wasm, host_target(), "+a" * 300)


MARK = 0x5EED1234
STORE = f"(i32.store (i32.const 400) (i32.const {MARK}))"


def fatal(wasm: bytes) -> bytes:
    """An image with an instruction that no processor of x86-64 has (PUSH ES), where a module stores the mark."""
    image = compiled(wasm)
    at = image.index(MARK.to_bytes(4, "little"))
    return image[: at - 6] + b"\x06" * 10 + image[at + 4 :]


@pytest.mark.skipif(host_target() != "x86_64", reason="the illegal instruction is x86-64's")
def test_an_image_that_the_processor_can_not_run_gives_way_to_the_module(lab):
    """`cpus` of agent.toml may promise more than there is, which shows only when such code runs."""
    lab.start()
    at_start = contract_module(more=f"(func $begin {STORE}) (start $begin)")
    update = lab.signer.update(at_start, name="echo", version="1.0.0", aot=((identifier(), fatal(at_start)),))
    lab.wait_state("confirmed", deployment=lab.deploy(update))
    assert lab.running("1.0.0").running.mode == "interpreter"
    at_event = echo(2, before=STORE)
    update = lab.signer.update(at_event, name="echo", version="2.0.0", aot=((identifier(), fatal(at_event)),))
    assert lab.wait_state("rolled-back", deployment=lab.deploy(update)).attempt.reason == "crashed"
    lab.wait_state("confirmed", deployment=lab.deploy(update))
    assert lab.running("2.0.0").running.mode == "interpreter"
    lab.still_answers(2)


@pytest.mark.skipif(host_target() != "x86_64", reason="the illegal instruction is x86-64's")
def test_a_confirmed_image_that_comes_to_an_impossible_instruction_is_interpreted_from_then_on(lab):
    lab.start()
    rare = f"""(i32.store8 (i32.const 600) (i32.add (i32.load8_u (i32.const 600)) (i32.const 1)))
      (if (i32.eq (i32.load8_u (i32.const 600)) (i32.const 30)) (then {STORE}))"""
    wasm = echo(3, before=rare)
    update = lab.signer.update(wasm, name="echo", version="3.0.0", aot=((identifier(), fatal(wasm)),))
    lab.wait_state("confirmed", deployment=lab.deploy(update))
    assert lab.running("3.0.0").running.mode == "aot"
    lab.observer.wait(lambda: lab.report.running.mode == "interpreter", lab.patience_s, "the module, interpreted")
    lab.still_answers(3)
    assert lab.report.running.slot == "confirmed"


def test_an_image_that_rots_on_disk_gives_way_to_the_module(lab):
    lab.start()
    assert deploy(lab, 1, [(identifier(), compiled)]) == "aot"
    lab.kill()
    image = compiled(echo(1))
    (blob,) = (path for path in (lab.folder / "store" / "blobs").iterdir() if path.read_bytes() == image)
    blob.write_bytes(image[:-1] + bytes((image[-1] ^ 1,)))
    lab.start()
    lab.running("1.0.0")
    lab.still_answers(1)
    assert lab.report.running.mode == "interpreter"
