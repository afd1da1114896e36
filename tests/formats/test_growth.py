"""How documents grow: an old agent refuses what it must understand, by name, and lives with the rest."""

from dataclasses import replace

import pytest

from ota.formats import cbor, trust
from ota.formats import deployment as deployments
from ota.formats.chunks import ChunkIndex
from ota.formats.cose import read_key
from ota.formats.deployment import DEPLOYMENT_TYPE
from ota.formats.enrolment import Request, Token
from ota.formats.module import Limits, ModuleDescription
from ota.formats.reasons import Reason, Refused
from ota.formats.report import InstanceReport, Report, decode_logs
from ota.formats.signed import Role
from ota.formats.trust import ROOT_TYPE, first_root, next_root
from ota.keyring import SigningKey, sign_document
from tests.formats.test_others import INSTANCE_REPORT, REPORT
from tests.support.signing import Signer

SIGNER = Signer()
UPDATE = SIGNER.update(bytes(3000))
DEPLOYMENT = SIGNER.deployment(bytes(32))[0].to_payload()


def deployment(change) -> deployments.Deployment:
    payload = change(DEPLOYMENT)
    return deployments.verify(sign_document(payload, DEPLOYMENT_TYPE, [SIGNER.keys["deploy"]]), SIGNER.root(), group="lab")


def root(change) -> trust.Root:
    return first_root(sign_document(change(SIGNER.root().to_payload()), ROOT_TYPE, [SIGNER.keys["root"]]))


def index(change) -> ChunkIndex:
    data = change(UPDATE.index.to_bytes())
    return ChunkIndex.from_bytes(data, cbor.sha256(data), UPDATE.index.digest, UPDATE.index.size)


def description(change) -> ModuleDescription:
    return ModuleDescription.from_bytes(change(UPDATE.manifest.module.to_bytes()))


SIGNED = [deployment, root, index, description]


def refusal(function, *values, **more) -> Refused:
    with pytest.raises(Refused) as caught:
        function(*values, **more)
    return caught.value


def with_member(key, content):
    return lambda data: cbor.encode(cbor.decode(data, "test", 1 << 16) | {key: content})


@pytest.mark.parametrize("read", SIGNED)
@pytest.mark.parametrize("key", [20, 63])
def test_an_unknown_critical_member_is_refused_by_number(read, key):
    error = refusal(read, with_member(key, 1))
    assert error.reason is Reason.MEMBER_UNKNOWN
    assert error.detail.endswith(f"members that this version does not know: {key}")


@pytest.mark.parametrize("read", SIGNED)
@pytest.mark.parametrize("key", [99, 1 << 40])
def test_an_unknown_member_that_is_not_critical_is_ignored(read, key):
    assert read(with_member(key, {"anything": [1, None]})) == read(lambda data: data)


@pytest.mark.parametrize("read", SIGNED)
@pytest.mark.parametrize("key", [0, -1, "name", b"name"])
def test_a_member_that_is_no_number_above_zero_is_malformed(read, key):
    assert refusal(read, with_member(key, 1)).reason is Reason.MALFORMED


@pytest.mark.parametrize(("read", "known"), [(deployment, 2), (root, 1), (index, 1)])
def test_another_version_of_a_document_is_one_that_this_agent_is_too_old_for(read, known):
    error = refusal(read, with_member(1, known + 1))
    assert error.reason is Reason.MEMBER_UNKNOWN
    assert f"is of version {known + 1}, this version knows {known}" in error.detail


def test_an_ignored_member_is_under_the_signature_all_the_same():
    payload = with_member(64, b"a")(DEPLOYMENT)
    document = sign_document(payload, DEPLOYMENT_TYPE, [SIGNER.keys["deploy"]])
    changed = document.replace(cbor.encode(64) + cbor.encode(b"a"), cbor.encode(64) + cbor.encode(b"b"))
    assert changed != document
    assert refusal(deployments.verify, changed, SIGNER.root(), group="lab").reason is Reason.SIGNATURE_INVALID


def test_an_unknown_limit_of_a_module_is_refused_by_name():
    error = refusal(Limits.parse, {"memory_pages": 4, "gpu_ms": 3}, "limits")
    assert (error.reason, "'gpu_ms'" in error.detail) == (Reason.MEMBER_UNKNOWN, True)


def test_members_and_words_of_a_newer_agents_report_do_not_hide_the_board():
    value = cbor.decode(REPORT.to_bytes(), "report", 1 << 16)
    value |= {"weather": [1]}
    value["instances"][0] |= {"slot": "fourth", "state": "waiting-for-moon", "colour": 3}
    value["refusals"][0] |= {"document": "planet", "reason": "moon-wrong", "x": None}
    report = Report.from_bytes(cbor.encode(value))
    assert (report.device, report.instances[0].slot, report.instances[0].state) == (REPORT.device, "fourth", "waiting-for-moon")
    assert (report.refusals[0].document, report.refusals[0].reason) == ("planet", "moon-wrong")
    value = cbor.decode(INSTANCE_REPORT.to_bytes(), "report", 1 << 16) | {"weather": [1]}
    value["running"] |= {"slot": "fourth", "mode": "jit", "colour": 3}
    value["attempt"] |= {"state": "waiting-for-moon", "reason": "moon-wrong", "x": None}
    instance = InstanceReport.from_bytes(cbor.encode(value))
    assert (instance.running.slot, instance.attempt.state) == ("fourth", "waiting-for-moon")
    assert instance.attempt.reason == "moon-wrong"


@pytest.mark.parametrize("word", ["Rolled", "rolled back", "\x1b[2J", "x" * 65])
def test_a_state_that_is_no_word_is_refused(word):
    value = cbor.decode(INSTANCE_REPORT.to_bytes(), "report", 1 << 16)
    value["attempt"] |= {"state": word}
    assert refusal(InstanceReport.from_bytes, cbor.encode(value)).reason is Reason.MALFORMED
    value = cbor.decode(REPORT.to_bytes(), "report", 1 << 16)
    value["instances"][0] |= {"state": word}
    assert refusal(Report.from_bytes, cbor.encode(value)).reason is Reason.MALFORMED


def test_more_in_a_log_record_or_an_enrolment_request_is_ignored():
    batch = {"v": 2, "device": "d", "counter": 1, "records": [[1.5, "info", "i", "m 1", "hello", {"trace": 3}]], "more": 1}
    assert decode_logs(cbor.encode(batch)).records[0].message == "hello"
    token = Token(bytes(8), bytes(32))
    request = Request.make(token, "roof-1", b"csr")
    read = Request.from_bytes(with_member("hint", "x")(request.to_bytes()))
    assert read == request


# -- keys and roles of another time

NEW_TYPE = {1: 7, 3: -50, -1: bytes(2592)}  # RFC 9964's shape of an ML-DSA-87 key
NEW_KEY = read_key(b"k" * 32, NEW_TYPE)


def keys_of(*keys: SigningKey):
    return {key.public.key_id: key.public for key in keys}


def signed_root(root: trust.Root, *keys: SigningKey) -> bytes:
    return sign_document(root.to_payload(), ROOT_TYPE, list(keys))


def test_a_role_that_this_agent_does_not_know_is_ignored():
    def change(payload):
        value = cbor.decode(payload, "test", 1 << 16)
        value[7]["timestamp"] = [[], 0]
        return cbor.encode(value)

    assert root(change) == SIGNER.root()


@pytest.mark.parametrize(
    "cose_key",
    [
        NEW_TYPE,
        {1: 2, -1: 2, -2: bytes(48), -3: bytes(48)},  # P-384
        {1: 1, -1: 7, -2: bytes(57)},  # Ed448
        {1: "new"},
        {1: 1, -1: 6, -2: bytes(32), 4: [2]},  # key_ops
        {1: 1, 3: -50, -1: 6, -2: bytes(32)},
    ],
)
def test_a_key_of_an_unknown_kind_is_kept_named_and_not_used(cose_key):
    unusable = read_key(b"k" * 32, cose_key)
    roles = dict(SIGNER.root().roles)
    roles["release"] = replace(roles["release"], unusable={unusable.key_id: unusable})
    found = first_root(signed_root(SIGNER.root(roles=roles), SIGNER.keys["root"]))
    assert found.roles["release"].unusable[b"k" * 32].to_cose_key() == cose_key
    assert list(found.roles["release"].keys) == [SIGNER.keys["release"].public.key_id]
    assert found.unusable[0].startswith(f"release: {(b'k' * 8).hex()}")
    assert first_root(signed_root(found, SIGNER.keys["root"])) == found  # written as it was read


@pytest.mark.parametrize("cose_key", [{}, [], {3: -8}, {1: 1, -1: 6, -2: bytes(31)}, {1: 2, -1: 1, -2: bytes(32), -3: bytes(32)}])
def test_what_is_no_key_is_malformed(cose_key):
    assert refusal(read_key, b"k" * 32, cose_key).reason is Reason.MALFORMED


def test_a_usable_key_under_another_identifier_is_malformed():
    assert refusal(read_key, b"k" * 32, SigningKey.generate().public.to_cose_key()).reason is Reason.MALFORMED


@pytest.mark.parametrize("role", trust.ROLES)
def test_a_root_whose_threshold_takes_keys_of_an_unknown_kind_is_refused_by_its_own_reason(role):
    roles = dict(SIGNER.root().roles)
    roles[role] = replace(roles[role], threshold=2, unusable={NEW_KEY.key_id: NEW_KEY})
    document = signed_root(SIGNER.root(2, roles=roles), SIGNER.keys["root"])
    error = refusal(next_root, SIGNER.root(), document)
    assert error.reason is Reason.THRESHOLD_UNREACHABLE
    assert f"role {role}: 1 of 2 needed signatures" in error.detail
    assert NEW_KEY.label in error.detail


def test_a_board_that_slept_through_the_switch_of_algorithms_passes_it_root_by_root():
    """Root 2 adds keys of an unknown kind beside the old ones, root 3 rotates the old ones out for new ones of the known kind."""
    other = {role: SigningKey.generate("es256") for role in trust.ROLES}
    first = SIGNER.root()
    both = {name: replace(role, unusable={NEW_KEY.key_id: NEW_KEY}) for name, role in first.roles.items()}
    later = {name: Role(keys_of(other[name]), 1, {NEW_KEY.key_id: NEW_KEY}) for name in trust.ROLES}
    foreign = SigningKey.generate()  # signs where the new kind would: an identifier that no usable key has
    second = next_root(first, signed_root(SIGNER.root(2, roles=both), SIGNER.keys["root"], foreign))
    third = next_root(second, signed_root(SIGNER.root(3, roles=later), SIGNER.keys["root"], other["root"], foreign))
    assert (third.number, third.roles["deploy"].unusable) == (3, {NEW_KEY.key_id: NEW_KEY})
    document = SIGNER.deployment(bytes(32), keys=[other["deploy"], foreign])[1]
    assert deployments.verify(document, third, group="lab")


def test_a_signature_under_the_identifier_of_an_unusable_key_counts_for_nothing():
    roles = dict(SIGNER.root().roles)
    roles["deploy"] = Role(roles["deploy"].keys, 1, {NEW_KEY.key_id: NEW_KEY})
    thief = SigningKey.generate()
    thief.public = NEW_KEY  # its signatures name the other's identifier
    document = SIGNER.deployment(bytes(32), keys=[thief])[1]
    assert refusal(deployments.verify, document, SIGNER.root(roles=roles), group="lab").reason is Reason.SIGNER_UNKNOWN
