"""Which agent this is, as reports name it."""

import os

from ota import __version__


def agent_version() -> str:
    """The installed version; of a flashed agent, which build of it."""
    return os.environ.get("WAMR_OTA_TARBALL", "")[:64] or __version__
