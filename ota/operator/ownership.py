"""Whose a broker is: the workspace's whose first root document lies on it."""

from ota.errors import OtaError
from ota.formats import topics
from ota.operator.broker import Broker
from ota.operator.workspace import Workspace

__all__ = ["FIRST_ROOT", "ForeignError", "check_ours", "foreign"]

FIRST_ROOT = topics.root(1)


class ForeignError(OtaError):
    """The broker has documents that this workspace's keys did not sign."""


def foreign(workspace: Workspace, first_root: bytes | None) -> str:
    """That the broker with this document, None for none, belongs to another workspace; "" when that is not so."""
    if first_root is None or first_root == workspace.root_documents()[1]:
        return ""
    return f"{workspace.settings.broker} belongs to another workspace: {FIRST_ROOT} is not the root document of this one"


def check_ours(workspace: Workspace, broker: Broker) -> None:
    """Before what boards left there is removed, or secrets are sent. Raises ForeignError, BrokerError when it can't be known."""
    if why := foreign(workspace, broker.retained_one(FIRST_ROOT)):
        raise ForeignError(why)
