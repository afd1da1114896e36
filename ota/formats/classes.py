"""Vendors and classes of boards, as SUIT's identifiers."""

import uuid

__all__ = ["ANY_BOARD", "class_id", "vendor_id"]

ANY_BOARD = "generic"
"""The class of boards that every board belongs to, besides its own."""


def vendor_id(domain: str) -> bytes:
    """The vendor identifier: UUIDv5 of a domain name (draft section 8.4.8.2, RFC 9562)."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, domain).bytes


def class_id(vendor: bytes, board: str, architecture: str, abi: str) -> bytes:
    """The class identifier: UUIDv5, in the vendor's name space, of board class, architecture ("wasm": any) and contract."""
    return uuid.uuid5(uuid.UUID(bytes=vendor), f"{board}/{architecture}/{abi}").bytes
