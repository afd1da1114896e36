"""Whom a deployment document is for: a group, or one device whose document overrides its group's."""

from dataclasses import dataclass

from ota.formats import topics
from ota.formats.deployment import Deployment, verify
from ota.formats.trust import Root

__all__ = ["Scope"]


@dataclass(frozen=True, order=True)
class Scope:
    """A group or a device; the other name is empty."""

    group: str = ""
    device: str = ""

    def __str__(self) -> str:
        return f"device {self.device}" if self.device else f"group {self.group}"

    @classmethod
    def of(cls, deployment: Deployment) -> "Scope":
        """Whom a document is for."""
        return cls("" if deployment.device else deployment.group, deployment.device)

    @classmethod
    def from_key(cls, key: str) -> "Scope":
        """From the name that it has in the workspace's records."""
        return cls(device=key[1:]) if key.startswith("@") else cls(group=key)

    @property
    def key(self) -> str:
        """Its name in the workspace's records: no group's name has an @."""
        return f"@{self.device}" if self.device else self.group

    @property
    def topic(self) -> str:
        """Where its document is retained."""
        return topics.device_desired(self.device) if self.device else topics.desired(self.group)

    def verify(self, document: bytes, root: Root) -> Deployment:
        """A document for it that enough deploy keys of this root signed. Raises Refused as `ota.formats.deployment.verified`."""
        return verify(document, root, group=self.group, device=self.device)
