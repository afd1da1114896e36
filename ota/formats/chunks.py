"""Chunk indexes: how a blob travels in pieces that are checked one by one on arrival."""

from dataclasses import dataclass

from ota.formats import cbor
from ota.formats.fields import Fields, Unknown, malformed
from ota.formats.reasons import Reason, Refused

BLOB_LIMIT_BYTES = 64 * 1024 * 1024
INDEX_LIMIT_BYTES = 3 * 1024 * 1024
DEFAULT_CHUNK_BYTES = 16 * 1024
CHUNK_MIN_BYTES, CHUNK_MAX_BYTES = 1024, 256 * 1024
_VERSION, _DIGEST, _SIZE, _CHUNK, _DIGESTS = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class ChunkIndex:
    """The chunks of one blob. Every chunk has `chunk_bytes`, except the last, which has the rest."""

    digest: bytes  # SHA-256 of the blob
    size: int
    chunk_bytes: int
    digests: tuple[bytes, ...]  # SHA-256 of each chunk

    @classmethod
    def of(cls, blob: bytes, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> "ChunkIndex":
        """The index of a blob. Raises ValueError for a chunk size outside 1 KiB to 256 KiB or an empty or too large blob."""
        if not CHUNK_MIN_BYTES <= chunk_bytes <= CHUNK_MAX_BYTES:
            raise ValueError(f"a chunk has {CHUNK_MIN_BYTES} to {CHUNK_MAX_BYTES} bytes, not {chunk_bytes}")
        if not 0 < len(blob) <= BLOB_LIMIT_BYTES:
            raise ValueError(f"a blob has 1 to {BLOB_LIMIT_BYTES} bytes, not {len(blob)}")
        chunks = (blob[start : start + chunk_bytes] for start in range(0, len(blob), chunk_bytes))
        return cls(cbor.sha256(blob), len(blob), chunk_bytes, tuple(cbor.sha256(chunk) for chunk in chunks))

    def to_bytes(self) -> bytes:
        """Encoded; the manifest names the SHA-256 of these bytes."""
        return cbor.encode(
            {
                _VERSION: 1,
                _DIGEST: self.digest,
                _SIZE: self.size,
                _CHUNK: self.chunk_bytes,
                _DIGESTS: b"".join(self.digests),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, expected_digest: bytes, blob_digest: bytes, blob_size: int) -> "ChunkIndex":
        """The index that a manifest names.

        Raises Refused TOO_LARGE, INDEX_MISMATCH when it is another index or one of another blob, MALFORMED, MEMBER_UNKNOWN.
        """
        if len(data) > INDEX_LIMIT_BYTES:
            raise Refused(Reason.TOO_LARGE, f"the chunk index is {len(data)} bytes, the limit is {INDEX_LIMIT_BYTES}")
        if cbor.sha256(data) != expected_digest:
            raise Refused(Reason.INDEX_MISMATCH, f"the chunk index is {cbor.sha256(data).hex()}, signed is {expected_digest.hex()}")
        what = "chunk index"
        known = (_VERSION, _DIGEST, _SIZE, _CHUNK, _DIGESTS)
        fields = Fields(cbor.decode(data, what, INDEX_LIMIT_BYTES), what, known, Unknown.CRITICAL)
        fields.version(_VERSION)
        joined = fields.data(_DIGESTS, limit=INDEX_LIMIT_BYTES)
        index = cls(
            digest=fields.data(_DIGEST, 32),
            size=fields.number(_SIZE, 1, BLOB_LIMIT_BYTES),
            chunk_bytes=fields.number(_CHUNK, CHUNK_MIN_BYTES, CHUNK_MAX_BYTES),
            digests=tuple(joined[start : start + 32] for start in range(0, len(joined), 32)),
        )
        if len(joined) != 32 * -(-index.size // index.chunk_bytes):
            raise malformed(what, f"{len(joined)} bytes of digests for {index.size} bytes in chunks of {index.chunk_bytes}")
        if index.digest != blob_digest or index.size != blob_size:
            raise Refused(Reason.INDEX_MISMATCH, "the chunk index is one of another blob")
        return index

    def chunk_size(self, number: int) -> int:
        """How many bytes chunk `number`, from 0, has."""
        return min(self.chunk_bytes, self.size - number * self.chunk_bytes)

    def check(self, number: int, chunk: bytes) -> None:
        """Raises Refused CHUNK_DIGEST_MISMATCH when this is not chunk `number`."""
        if len(chunk) != self.chunk_size(number) or cbor.sha256(chunk) != self.digests[number]:
            raise Refused(
                Reason.CHUNK_DIGEST_MISMATCH,
                f"chunk {number} of {self.digest.hex()} is {len(chunk)} bytes with digest {cbor.sha256(chunk).hex()}, "
                f"expected {self.chunk_size(number)} with {self.digests[number].hex()}",
            )
