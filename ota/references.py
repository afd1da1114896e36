"""Key references: text that says where a private key is, and how each kind is opened.

A reference is a path, relative to the workspace where there is one. Another kind of place is one row of SCHEMES.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from ota import ssh_agents, tokens
from ota.keyring import KeyLockedError, Signer, SigningKey

__all__ = ["SCHEMES", "Opener", "Secrets", "from_workspace", "open_file", "open_key"]


class Secrets:
    """What unlocks private keys: a passphrase that was given, or somebody who can be asked."""

    def __init__(self, given: bytes | None = None) -> None:
        self.given = given
        self.typed = False  # whether that was an answer, to the last question
        self.ask: Callable[[str], bytes] | None = None  # with what is locked; None where there is nobody to ask

    def answer(self, what: str) -> bytes | None:
        """Asks for the passphrase or PIN of something; None where there is nobody to ask. The last answer is tried first."""
        if self.ask is not None:
            self.given, self.typed = self.ask(what), True
            return self.given
        return None


Opener = Callable[[str, Secrets], Signer]
SCHEMES: Mapping[str, Opener] = {tokens.SCHEME: tokens.open_key, ssh_agents.SCHEME: ssh_agents.open_key}
"""By the beginning of a reference, such as "pkcs11:"."""


def open_key(reference: str, folder: Path, secrets: Secrets) -> Signer:
    """The key of a reference; paths are relative to `folder`. Raises KeyFileError."""
    for scheme, opener in SCHEMES.items():
        if reference.startswith(scheme):
            return opener(reference, secrets)
    return open_file(folder / reference, secrets)


def from_workspace(reference: str, folder: Path) -> str:
    """A reference from the command line, where paths are relative to the present folder, as keys.toml has it."""
    if reference.startswith(tuple(SCHEMES)):
        return reference
    path, home = Path(reference).resolve(), folder.resolve()
    return str(path.relative_to(home) if path.is_relative_to(home) else path)


def open_file(path: Path, secrets: Secrets) -> SigningKey:
    """The key of a file; who can be asked for its passphrase is. Raises KeyFileError."""
    try:
        return SigningKey.load(path, secrets.given)
    except KeyLockedError:
        answer = secrets.answer(str(path))
        if answer is None:
            raise
        return SigningKey.load(path, answer)
