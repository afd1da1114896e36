"""TLS with the broker."""

import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from device_agent.broker.settings import BrokerConfig

T = TypeVar("T")


def context(config: BrokerConfig) -> ssl.SSLContext:
    """Files are read at each attempt: they may have been renewed. Raises OSError naming the file."""
    found = _naming(config.ca_file, lambda: ssl.create_default_context(cafile=config.ca_file))
    if config.certificate_file is not None:
        certificate, key = config.certificate_file, config.key_file
        _naming(certificate, lambda: found.load_cert_chain(certificate, key))
    return found


def _naming(file: Any, read: Callable[[], T]) -> T:
    try:
        return read()
    except OSError as error:
        raise OSError(f"{file}: {error.strerror or error}") from error
