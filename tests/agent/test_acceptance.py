"""Floors of signed documents: each key that signed one counts by itself, however the role changes."""

from dataclasses import dataclass

import pytest

from device_agent.desired.acceptance import keep_newer
from device_agent.storage.store import Store
from ota.formats.reasons import Reason, Refused

A, B, C = b"a", b"b", b"c"


@dataclass(frozen=True)
class Document:
    epoch: int
    signers: frozenset[bytes]
    digest: bytes


class Board:
    def __init__(self, folder) -> None:
        self.store = Store(folder)

    def takes(self, epoch: int, *signers: bytes, of: tuple[bytes, ...], document: bytes = b"") -> None:
        """A document that these signed, as far as the role has them now."""
        document = document or b"document %d" % epoch
        found = Document(epoch, frozenset(signers) & frozenset(of), b"digest of " + document)
        keep_newer(self.store, "deployment.lab", "deployment", found, document, of)

    def refuses(self, epoch: int, *signers: bytes, of: tuple[bytes, ...], document: bytes = b"") -> Reason:
        before = self.store.document("deployment.lab")
        with pytest.raises(Refused) as caught:
            self.takes(epoch, *signers, of=of, document=document)
        assert self.store.document("deployment.lab") == before
        return caught.value.reason


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


def test_an_older_document_is_refused_and_the_same_one_is_not(board):
    board.takes(5, A, of=(A,))
    board.takes(5, A, of=(A,))
    assert board.refuses(4, A, of=(A,)) is Reason.DEPLOYMENT_REPLAYED
    board.takes(6, A, of=(A,))
    assert board.store.document("deployment.lab") == b"document 6"


def test_a_key_that_gets_the_role_later_counts_for_what_it_signed_before(board):
    """Else an older document would come back with it, once the key that signed beside it is gone."""
    board.takes(5, A, B, of=(A,))
    board.takes(5, A, B, of=(A, B))  # the same document, under the next root
    assert board.refuses(4, B, of=(B,)) is Reason.DEPLOYMENT_REPLAYED


def test_what_a_stolen_key_counted_is_gone_with_it_and_what_the_others_counted_is_not(board):
    board.takes(5, A, of=(A, B))
    board.takes(1 << 40, B, of=(A, B))
    assert board.refuses(6, A, of=(A, B)) is Reason.DEPLOYMENT_REPLAYED
    board.takes(6, A, of=(A, C))
    assert board.refuses(5, C, of=(A, C)) is Reason.DEPLOYMENT_REPLAYED
    assert board.refuses(6, B, of=(A, B)) is Reason.DEPLOYMENT_REPLAYED  # a later root names it again: it begins where it was


def test_a_second_document_of_an_epoch_is_refused(board):
    board.takes(5, A, of=(A,))
    assert board.refuses(5, A, of=(A,), document=b"another") is Reason.DEPLOYMENT_CONFLICT
    assert board.refuses(5, B, of=(A, B), document=b"another") is Reason.DEPLOYMENT_CONFLICT
