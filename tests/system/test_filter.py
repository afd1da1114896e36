"""A filter of proxy-wasm on a board, between topics of the broker."""

from tests.support.filter_wat import probe

CAPABILITIES = {"filter": {}, "messaging": {"subscribe": ["in/#"], "publish": ["out/#"]}}


def test_a_filter_is_installed_as_any_module_and_its_routes_change_by_configuration(lab):
    lab.settings |= {"proc": 0, "extra": "[policy.grants.filter]\n"}
    lab.start()
    update = lab.signer.update(probe(), name="guard", version="1.0.0", capabilities=CAPABILITIES)
    lab.wait_state("confirmed", deployment=lab.deploy(update, config={"routes": "in/#=out/first/#"}))
    heard(lab, "out/first/door")
    lab.wait_state("confirmed", deployment=lab.deploy(update, config={"routes": "in/#=out/second/#"}))
    heard(lab, "out/second/door")


def test_a_board_whose_policy_grants_no_filter_refuses_it_by_name(lab):
    lab.start()
    update = lab.signer.update(probe(), name="guard", version="1.0.0", capabilities=CAPABILITIES)
    report = lab.wait_state("failed", "rejected", deployment=lab.deploy(update))
    assert report.attempt.reason == "capability-denied"
    assert "filter" in report.attempt.detail


def heard(lab, topic: str) -> None:
    lab.observer.publish("in/door", b"open")

    def there() -> bool:
        return any((each.topic, each.payload) == (topic, b"open") for each in lab.observer.messages.values())

    lab.observer.wait(there, lab.patience_s, f"a message on {topic}")
