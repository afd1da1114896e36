"""Whether a board has room for one more module."""

import pytest

from device_agent.node.admission import check_room
from ota.formats.capabilities import Capabilities
from ota.formats.module import Limits, ModuleDescription
from ota.formats.reasons import Reason, Refused


def module(pages=16, **capabilities) -> ModuleDescription:
    return ModuleDescription("m", "1", Capabilities.parse(capabilities, "test"), Limits(memory_pages=pages))


def refusal(*arguments, sources=None, instances_max=16, memory_bytes=0) -> Refused:
    with pytest.raises(Refused) as caught:
        check_room(*arguments, sources or {}, instances_max, memory_bytes)
    return caught.value


def test_an_instance_that_is_there_may_always_change_its_module():
    check_room("a", module(), {"a": [module()], "b": [module()]}, {}, 2, 0)


def test_instances_that_run_nothing_take_no_place():
    check_room("c", module(), {"a": [module()], "b": []}, {}, 2, 0)


def test_one_more_than_the_most_is_refused_naming_those_that_are_there():
    error = refusal("c", module(), {"a": [module()], "b": [module()]}, instances_max=2)
    assert error.reason is Reason.INSTANCES_EXCEEDED
    assert error.detail == "instance c would be one too many: this board runs 2 at most, a, b"


def test_memory_counts_the_larger_of_what_an_instance_runs_and_is_about_to_run():
    others = {"a": [module(8), module(24)], "b": [module(4)]}
    check_room("c", module(4), others, {}, 16, 32 * 65536)
    error = refusal("c", module(5), others, memory_bytes=32 * 65536)
    assert error.reason is Reason.MEMORY_EXCEEDED
    assert "instance c asks for 320 KiB of memory" in error.detail
    assert error.detail.endswith("others have 1792 KiB: a, b")
    check_room("a", module(28), others, {}, 16, 32 * 65536)


def test_a_line_or_port_belongs_to_one_instance_under_whatever_name(tmp_path, monkeypatch):
    names = {"/dev/ttyUSB0": "/dev/ttyUSB0", "/dev/by-id": "/dev/ttyUSB0"}
    monkeypatch.setattr("os.path.realpath", lambda path: names.get(path, path))
    port = {"serial": {"ports": ["/dev/ttyUSB0:9600"]}}
    other = {"serial": {"ports": ["/dev/by-id:115200"]}}
    error = refusal("b", module(**other), {"a": [module(**port)]})
    assert error.reason is Reason.DEVICE_CLAIMED
    assert error.detail == "/dev/ttyUSB0, which instance b asks for, is instance a's"
    check_room("a", module(**other), {"a": [module(**port)]}, {}, 16, 0)
    line = {"gpio": {"outputs": ["gpiochip0:4"]}}
    assert refusal("b", module(**line), {"a": [module(gpio={"inputs": ["gpiochip0:4"]})]}).reason is Reason.DEVICE_CLAIMED
    check_room("b", module(**line), {"a": [module(gpio={"inputs": ["gpiochip0:5"]})]}, {}, 16, 0)


def test_a_device_of_a_source_is_no_module_s():
    error = refusal("a", module(gpio={"inputs": ["gpiochip0:4"]}), {}, sources={"door": frozenset({"/dev/gpiochip0:4"})})
    assert error.detail == "/dev/gpiochip0:4, which instance a asks for, is source door's"
