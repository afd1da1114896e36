"""Why something was refused, failed or was rolled back. The values are part of the wire format: stable, never reused."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from ota.errors import OtaError


class Reason(Enum):
    """A stable reason code, as it stands in reports, logs and errors."""

    # bytes and signatures
    TOO_LARGE = "too-large"
    MALFORMED = "malformed"
    MEMBER_UNKNOWN = "member-unknown"
    SIGNATURE_MISSING = "signature-missing"
    SIGNATURE_INVALID = "signature-invalid"
    SIGNER_UNKNOWN = "signer-unknown"
    SIGNER_THRESHOLD = "signer-threshold"
    THRESHOLD_UNREACHABLE = "threshold-unreachable"
    KEY_REUSED = "key-reused"
    ROOT_NOT_NEXT = "root-not-next"
    # manifest
    MANIFEST_DIGEST_MISMATCH = "manifest-digest-mismatch"
    SEVERED_MISMATCH = "severed-mismatch"
    COMMAND_UNSUPPORTED = "command-unsupported"
    VENDOR_MISMATCH = "vendor-mismatch"
    CLASS_MISMATCH = "class-mismatch"
    SEQUENCE_TOO_OLD = "sequence-too-old"
    EPOCH_TOO_OLD = "epoch-too-old"
    # deployment
    GROUP_MISMATCH = "group-mismatch"
    DEPLOYMENT_REPLAYED = "deployment-replayed"
    DEPLOYMENT_CONFLICT = "deployment-conflict"
    DEPLOYMENT_EXPIRED = "deployment-expired"
    DEPLOYMENT_STOPPED = "deployment-stopped"
    ROOT_EXPIRED = "root-expired"
    CLOCK_NOT_SET = "clock-not-set"
    CONFIG_TOO_LARGE = "config-too-large"
    WINDOW_NEVER_OPENS = "window-never-opens"
    SET_INCOMPLETE = "set-incomplete"
    SET_FAILED = "set-failed"
    # waiting: not failed
    WINDOW_CLOSED = "window-closed"
    WINDOW_UNKNOWN = "window-unknown"
    DOCUMENT_AWAITED = "document-awaited"
    SET_AWAITED = "set-awaited"
    LINK_AWAITED = "link-awaited"
    UPDATE_POSTPONED = "update-postponed"
    # the board's owner
    OWNER_REFUSED = "owner-refused"
    # instances
    INSTANCES_EXCEEDED = "instances-exceeded"
    MEMORY_EXCEEDED = "memory-exceeded"
    DEVICE_CLAIMED = "device-claimed"
    INSTANCE_RESERVED = "instance-reserved"
    # agent
    AGENT_INVALID = "agent-invalid"
    SCHEMA_MISMATCH = "schema-mismatch"
    LAUNCHER_MISSING = "launcher-missing"
    SETTINGS_INVALID = "settings-invalid"
    AGENT_ON_TRIAL = "agent-on-trial"
    AGENT_FAILED = "agent-failed"
    # bundle
    BUNDLE_INVALID = "bundle-invalid"
    BUNDLE_TRUNCATED = "bundle-truncated"
    BUNDLE_GONE = "bundle-gone"
    # registries of artifacts
    REGISTRY_UNTRUSTED = "registry-untrusted"
    ARTIFACT_UNSUITABLE = "artifact-unsuitable"
    # enrolment and renewal
    TOKEN_EXPIRED = "token-expired"  # noqa: S105
    TOKEN_USED = "token-used"  # noqa: S105
    REQUEST_INVALID = "request-invalid"
    NAME_TAKEN = "name-taken"
    CERTIFICATE_UNKNOWN = "certificate-unknown"
    CERTIFICATE_EXPIRED = "certificate-expired"
    DEVICE_RETIRED = "device-retired"
    KEY_CLONED = "key-cloned"
    # what boards say
    REPORT_FORGED = "report-forged"
    REPORT_REPLAYED = "report-replayed"
    KEY_CHANGED = "key-changed"
    DEVICE_CLONED = "device-cloned"
    JOURNAL_CHANGED = "journal-changed"
    CERTIFICATE_RETIRED = "certificate-retired"
    # confidential payloads
    ENCRYPTION_UNSUPPORTED = "encryption-unsupported"
    RECIPIENT_MISSING = "recipient-missing"
    DECRYPTION_FAILED = "decryption-failed"
    # transfer
    INDEX_MISMATCH = "index-mismatch"
    CHUNK_DIGEST_MISMATCH = "chunk-digest-mismatch"
    CHUNK_MISSING = "chunk-missing"
    BLOB_DIGEST_MISMATCH = "blob-digest-mismatch"
    MANIFEST_MISSING = "manifest-missing"
    DISK_FULL = "disk-full"
    STORAGE_UNWRITABLE = "storage-unwritable"
    # module
    CAPABILITY_DENIED = "capability-denied"
    MODULE_INVALID = "module-invalid"
    IMPORT_UNDECLARED = "import-undeclared"
    EXPORT_MISSING = "export-missing"
    DEVICE_UNAVAILABLE = "device-unavailable"
    CONFINEMENT_LACKING = "confinement-lacking"
    PROCESS_UNAVAILABLE = "process-unavailable"
    START_FAILED = "start-failed"
    STATE_REFUSED = "state-refused"
    # running
    TRAPPED = "trapped"
    CRASHED = "crashed"
    DEADLINE_EXCEEDED = "deadline-exceeded"
    UNHEALTHY = "unhealthy"
    TRIAL_SILENT = "trial-silent"
    TRIAL_INTERRUPTED = "trial-interrupted"


class Refused(OtaError):
    """Something from outside was not accepted; `reason` is the stable code, the text says what was expected and found."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


@contextmanager
def naming(what: object) -> Iterator[None]:
    """Puts the object that a refusal is about, such as a file, in front of the refusal's detail."""
    try:
        yield
    except Refused as error:
        raise Refused(error.reason, f"{what}: {error.detail}") from error
