"""What this board may install: by the root in force, for its board, and not behind what it has confirmed."""

from device_agent.desired.roots import Start
from device_agent.storage import floors
from device_agent.storage.store import Store
from ota.formats import manifest as manifests
from ota.formats.capabilities import ABI
from ota.formats.trust import Root


class Trust:
    """The root in force, which changes, and what follows from it."""

    def __init__(self, start: Start, store: Store, board: str) -> None:
        """`start`: the newest root that is trusted."""
        self.root: Root = start.root
        self.problems = dict(start.problems)  # of root documents, by number
        self._store, self._board = store, board

    def verify(self, envelope: bytes) -> manifests.VerifiedManifest:
        """A module's manifest, if this board may install it. On the writer thread.

        Raises Refused. What is committed already may be installed once more, in another instance or with another configuration.
        """
        root = self.root  # the one in force now
        vendor, keys = manifests.vendor_id(root.vendor), root.roles["release"].keys
        boards = (self._board, manifests.ANY_BOARD)
        classes = {manifests.class_id(vendor, each, "wasm", ABI) for each in boards}
        verified = manifests.verify(envelope, root, manifests.Acceptance(vendor, classes, -1, 0, boards))
        name = verified.manifest.name
        sequence = self._store.module_floor(floors.SEQUENCE, name, keys)
        epoch = self._store.module_floor(floors.EPOCH, name, keys)
        same = verified.envelope_digest in sequence.digests or self._store.holds(verified.envelope_digest)
        manifests.check_floors(verified.manifest, sequence.value - same, epoch.value)
        return verified

    def check_signers(self, verified: manifests.AnyVerified) -> None:
        """Raises Refused when those who signed a manifest have lost their role since it was verified."""
        manifests.check_signers(verified, self.root)
