"""A component for wasmCloud on a board: subjects are topics, its configuration is the deployment's, its store is granted."""

import pytest

from tests.support.wasmcloud_wat import CAPABILITIES, handler

GRANTS = "[policy.grants.config]\n[policy.grants.keyvalue]\nquota_bytes = 1000\n"


@pytest.mark.full
@pytest.mark.parametrize("canonical", [False, True])
def test_a_component_for_wasmcloud_handles_messages(lab, canonical):
    lab.settings |= {"proc": 0, "extra": GRANTS}
    lab.start()
    update = lab.signer.update(handler(canonical=canonical), name="counter", version="1.0.0", capabilities=CAPABILITIES)
    lab.wait_state("confirmed", deployment=lab.deploy(update, config={"target": "out/first"}))
    heard(lab, "out/first")
    lab.wait_state("confirmed", deployment=lab.deploy(update, config={"target": "out/second"}))
    heard(lab, "out/second")
    heard(lab, "out/answers/7", response_topic="out/answers/7")


@pytest.mark.full
def test_a_board_that_grants_no_store_refuses_it_by_name(lab):
    lab.settings |= {"proc": 0, "extra": "[policy.grants.config]\n"}
    lab.start()
    update = lab.signer.update(handler(), name="counter", version="1.0.0", capabilities=CAPABILITIES)
    report = lab.wait_state("failed", "rejected", deployment=lab.deploy(update))
    assert report.attempt.reason == "capability-denied"
    assert "keyvalue" in report.attempt.detail


def heard(lab, topic: str, **how: str) -> None:
    lab.observer.publish("in/door", b"open", **how)

    def there() -> bool:
        return any((each.topic, each.payload) == (topic, b"open") for each in lab.observer.messages.values())

    lab.observer.wait(there, lab.patience_s, f"a message on {topic}")
