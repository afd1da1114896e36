"""The owner's rules in agent.toml, and since when an update is ready."""

import pytest

from device_agent.instance.owner import Owner, Rule
from device_agent.node.config import ConfigError, load
from device_agent.storage.store import READY_KEPT, Store
from ota.formats.provenance import Kind
from ota.formats.reasons import Reason, Refused

MINIMAL = """[device]
id = "a"
group = "lab"
[storage]
folder = "store"
[trust]
root = "root.cbor"
"""


def config(folder, rules: str):
    (folder / "agent.toml").write_text(MINIMAL + rules)
    return load(folder / "agent.toml")


def test_rules_are_read_and_without_any_every_update_is_installed(tmp_path):
    assert config(tmp_path, "").owner == Owner()
    found = config(tmp_path, '[updates]\nfunctional = "postpone 36h"\nsecurity = "refuse"\n').owner
    assert found == Owner(Rule(36 * 3600), Rule(refused=True))


@pytest.mark.parametrize(
    "rule", ["never", "postpone", "postpone 0d", "postpone 366d", "postpone -1d", "postpone 7 d", "POSTPONE 7d", ""]
)
def test_a_rule_that_is_none_is_a_mistake_that_is_named(tmp_path, rule):
    with pytest.raises(ConfigError, match=r'updates.security must be "install", "refuse", or "postpone"'):
        config(tmp_path, f'[updates]\nsecurity = "{rule}"\n')


def test_a_kind_that_is_refused_is_named():
    owner = Owner(functional=Rule(refused=True))
    owner.check(Kind.SECURITY)
    for kind in (Kind.FUNCTIONAL, Kind.UNSPECIFIED, Kind.UNKNOWN):
        with pytest.raises(Refused, match="takes no functional updates") as caught:
            owner.check(kind)
        assert caught.value.reason is Reason.OWNER_REFUSED


def test_since_when_an_update_is_ready_outlives_a_restart_and_belongs_to_that_update(tmp_path):
    store = Store(tmp_path)
    assert store.ready_since("lamp", b"a" * 32, 100) == 100
    assert store.ready_since("lamp2", b"a" * 32, 150) == 150
    store.close()
    store = Store(tmp_path)
    assert store.ready_since("lamp", b"a" * 32, 200) == 100
    assert store.ready_since("lamp", b"b" * 32, 300) == 300
    assert store.ready_since("lamp", b"a" * 32, 400) == 400
    assert store.ready_since("lamp", b"a" * 32, 50) == 50  # the clock went back
    assert store.ready_since("lamp2", b"a" * 32, 500) == 150
    store.close()


def test_names_that_come_and_go_do_not_fill_the_database(tmp_path):
    store = Store(tmp_path)
    for number in range(READY_KEPT + 10):
        store.ready_since(f"lamp-{number}", b"a" * 32, number)
    ((count,),) = store._database.execute("select count(*) from meta where key like 'ready:%'")
    assert count == READY_KEPT
    assert store.ready_since(f"lamp-{READY_KEPT + 9}", b"a" * 32, 10_000) == READY_KEPT + 9
    store.close()
