"""Modules that say on one topic what they hear on another, and a board whose topics lie where a user's do."""

from tests.support.lab import DEVICE, PUBLISH, Lab
from tests.support.wat import contract_module

TEMPLATES = '[topics]\npublish = "{topic}"\nsubscribe = ["{topic}"]\n'


def relay(*topics: str, before: str = "", more: str = "") -> bytes:
    """A module that publishes each event's payload on these topics, `before` doing something first."""
    data, calls, at = "", "", 512
    for each in topics:
        data += f'(data (i32.const {at}) "{each}")'
        calls += f"(call $publish (i32.const {at}) (i32.const {len(each)}) (local.get $payload) (local.get $size) (i32.const 80))\n"
        at += len(each)
    return contract_module(f"{before} {calls} (i32.const 0)", PUBLISH, data, more)


class Board(Lab):
    """A lab with the topics that a board has by default: below its own name, and its group's."""

    def config(self, broker: str, store: str) -> str:
        """The agent's configuration."""
        usual = super().config(broker, store)
        assert TEMPLATES in usual
        return usual.replace(TEMPLATES, "").replace('"in/#"]', '"#"]').replace('["out/#", "flood/#"]', '["#"]')

    def run(self, instance: str, wasm: bytes, hears: list[str], says: list[str], **changes) -> None:
        """Installs a module and waits until it is confirmed."""
        capabilities = {"logging": {}, "messaging": {"subscribe": hears, "publish": says}}
        update = self.signer.update(wasm, name=instance, capabilities=capabilities, **changes)
        deployment = self.deploy(update, instance)
        self.wait_state("confirmed", deployment=deployment, instance=instance)

    def topic(self, topic: str) -> str:
        """Where a module's topic lies on the broker."""
        return f"devices/{DEVICE}/{topic}"
