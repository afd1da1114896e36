"""Ahead-of-time images that are not used again: a worker has died in them."""

import logging
from collections import deque
from dataclasses import replace

from device_agent.channel.workers import ModuleSpec, Worker

__all__ = ["FatalImages"]

FATAL_IMAGES = 32  # that are remembered
logger = logging.getLogger(__name__)


class FatalImages:
    """Ahead-of-time images that a worker has died in: modules are interpreted instead."""

    def __init__(self) -> None:
        self._digests: deque[bytes] = deque(maxlen=FATAL_IMAGES)

    def note(self, worker: Worker) -> bool:
        """Whether a worker died in its image."""
        digest = worker.fatal_image
        if digest and digest not in self._digests:
            logger.error("%s died in its ahead-of-time image: it is interpreted from now on", worker.spec.label)
            self._digests.append(digest)
        return bool(digest)

    def without(self, spec: ModuleSpec) -> ModuleSpec:
        """The same, without an image that is one of them."""
        return replace(spec, image=None, image_digest=b"") if spec.image_digest in self._digests else spec
