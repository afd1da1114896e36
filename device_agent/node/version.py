"""Which agent this is, as reports name it."""

import os


def agent_version() -> str:
    """The installed version; of a flashed agent, also which build of it."""
    if flashed := os.environ.get("WAMR_OTA_TARBALL", "")[:64]:
        return flashed
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("wamr-ota")
    except PackageNotFoundError:
        return "unknown"
