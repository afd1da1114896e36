"""Whether a board has room for one more module: its policy's limits, and devices that only one instance can have.

Pure: what runs, and what is about to run, are parameters.
"""

import os
from collections.abc import Mapping, Sequence

from ota.formats.module import ModuleDescription
from ota.formats.reasons import Reason, Refused

PAGE_BYTES = 64 << 10
Modules = Mapping[str, Sequence[ModuleDescription]]


def check_room(
    instance: str,
    module: ModuleDescription,
    others: Modules,
    sources: Mapping[str, frozenset[str]],
    instances_max: int,
    memory_bytes: int,
) -> None:
    """Whether a module may come into an instance beside those of all `others`, each with the modules that it runs or is about to.

    `sources`: the devices of each source of events, by its name. `memory_bytes`: of all modules in sum, 0 for no limit.
    Raises Refused INSTANCES_EXCEEDED, MEMORY_EXCEEDED, DEVICE_CLAIMED.
    """
    others = {name: modules for name, modules in others.items() if modules and name != instance}
    if len(others) >= instances_max:
        why = f"instance {instance} would be one too many: this board runs {instances_max} at most, {', '.join(sorted(others))}"
        raise Refused(Reason.INSTANCES_EXCEEDED, why)
    if memory_bytes:
        _check_memory(instance, module, others, memory_bytes)
    claims = {device: f"instance {name}" for name, modules in others.items() for each in modules for device in devices_of(each)}
    claims |= {os.path.realpath(device): f"source {name}" for name, devices in sources.items() for device in devices}
    for device in sorted(devices_of(module)):
        if device in claims:
            raise Refused(Reason.DEVICE_CLAIMED, f"{device}, which instance {instance} asks for, is {claims[device]}'s")


def devices_of(module: ModuleDescription) -> frozenset[str]:
    """Paths of the GPIO lines (chip and offset) and serial ports that it has for itself."""
    return frozenset(os.path.realpath(each) for each in module.capabilities.exclusive)


def _check_memory(instance: str, module: ModuleDescription, others: Modules, memory_bytes: int) -> None:
    taken = {name: max(each.limits.memory_pages for each in modules) * PAGE_BYTES for name, modules in others.items()}
    wanted, used = module.limits.memory_pages * PAGE_BYTES, sum(taken.values())
    if wanted + used > memory_bytes:
        raise Refused(
            Reason.MEMORY_EXCEEDED,
            f"instance {instance} asks for {wanted >> 10} KiB of memory; this board gives its modules {memory_bytes >> 10} KiB,"
            f" and others have {used >> 10} KiB: {', '.join(sorted(taken))}",
        )
