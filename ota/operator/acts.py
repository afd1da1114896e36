"""Acts that sign no document and change trust or secrets all the same, each with a line in the audit log before it has an effect.

Tokens that make boards ours, keys and passwords that are made, handed out or removed, whom the operator believes. The line is
signed by a key of the role that such an act is for (`ota.formats.audit.ROLES_OF_ACTIONS`), which has to be at hand.
"""

import time
from collections.abc import Mapping

from ota.formats.audit import ROLES_OF_ACTIONS
from ota.operator.audit import Audit
from ota.operator.ca import CertificateAuthority
from ota.operator.workspace import Workspace

__all__ = ["record"]


def record(workspace: Workspace, action: str, about: Mapping[str, str], now_s: int | None = None) -> None:
    """Adds the row of an act. Raises AuditError, KeyFileError, WorkspaceError: then the act is not to be done."""
    role, when_s = ROLES_OF_ACTIONS[action], int(time.time()) if now_s is None else now_s
    if role == "ca":
        CertificateAuthority(workspace, now_s=lambda: when_s).log(action, about)
    else:
        Audit(workspace).record(action, workspace.role_keys(role)[0], when_s, about)
