"""Numbers that boards and operators of every version share, a second time: to change one is to change the format."""

import importlib

import pytest

KIB, MIB = 1 << 10, 1 << 20
SHARED = {
    "agent": {"DESCRIPTION_LIMIT_BYTES": 4 * KIB, "UNPACKED_LIMIT_BYTES": 256 * MIB, "LEAST_PYTHON": 11, "LEAST_GLIBC": 17},
    "audit": {"LINE_LIMIT_BYTES": 32 * KIB, "START": "00" * 32},
    "bundle": {"BUNDLE_LIMIT_BYTES": 1 << 30, "MEMBERS_LIMIT": 4096, "CRL_LIMIT_BYTES": MIB, "BLOCK": 512},
    "capabilities": {
        "DEFAULT_QUOTA_BYTES": 16 * KIB, "QUOTA_LIMIT_BYTES": 256 * KIB, "DEFAULT_FOLDERS_BYTES": 16 * MIB,
        "FOLDERS_LIMIT_BYTES": 1 << 40, "TOPICS_REMEMBERED": 256, "MAX_FILTERS": 32, "NAMED": 16, "FUNCTIONS_NAMED": 3,
    },
    "cbor": {"MAX_DEPTH": 16},
    "chunks": {
        "BLOB_LIMIT_BYTES": 64 * MIB, "INDEX_LIMIT_BYTES": 3 * MIB, "DEFAULT_CHUNK_BYTES": 16 * KIB, "CHUNK_MIN_BYTES": KIB,
        "CHUNK_MAX_BYTES": 256 * KIB,
    },
    "component": {"MAX_DEPTH": 16, "MAX_SECTIONS": 20_000, "MAX_CORES": 64},
    "cose": {
        "SIGN1_TAG": 18, "ALGORITHM": 1, "CRITICAL": 2, "KEY_ID": 4,  # RFC 9052
        "TYPE": 16, "X5CHAIN": 33, "KCCS": 14, "_CONFIRMATION": 8, "_COSE_KEY": 1,  # RFC 9596, 9360, 9528, 8747
        "SIGN1_LIMIT_BYTES": MIB, "MAX_KEY_ID_BYTES": 64,
    },
    "deployment": {
        "DEPLOYMENT_LIMIT_BYTES": 120 * KIB, "FRACTION_ALL": 1_000_000, "ENTRIES": 64, "BOARDS": 256, "CLOCK_SLACK_S": 86_400,
    },
    "describe": {"ENVELOPE_LIMIT_BYTES": MIB},
    "diagnostic": {"MAX_DEPTH": 64},
    "encryption": {
        "ENCRYPT_TAG": 96, "IV": 5, "EPHEMERAL": -1, "A128CTR": -65534, "A128KW": -3, "ECDH_ES_A128KW": -29,  # RFC 9052, 9053, 9459
        "KTY": 1, "KID": 2, "ALG": 3, "SYMMETRIC": 4, "EC2": 2, "P256": 1, "CRV_OR_K": -1, "X": -2, "Y": -3,
        "KEY_BYTES": 16, "WRAPPED_BYTES": 24, "IV_BYTES": 16, "COORDINATE_BYTES": 32, "KEY_ID_BYTES": 8,
        "INFO_LIMIT_BYTES": 16 * KIB, "KEY_LIMIT_BYTES": 256, "MAX_RECIPIENTS": 64,
    },
    "enrolment": {"LIMIT_BYTES": 16 * KIB, "ADDRESS_DIGITS": 32},
    "fields": {"MAX_TIME_S": 1 << 40, "NON_CRITICAL": 64},
}  # fmt: skip


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in SHARED.items() for name in names])
def test_a_number_that_versions_share_is_what_it_was(module, name):
    assert getattr(importlib.import_module(f"ota.formats.{module}"), name) == SHARED[module][name]
