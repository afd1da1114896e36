"""TLS with the broker."""

import ssl
from collections.abc import Callable
from typing import Any, TypeVar

import paho.mqtt.client as paho

from device_agent.broker.identity import TOKEN, IdentityError
from device_agent.broker.settings import BrokerConfig

T = TypeVar("T")


def secure(client: paho.Client, config: BrokerConfig, timeout_s: float) -> None:
    """The client's next connection is TLS. Files are read at each attempt: they may have been renewed.

    Raises OSError naming the file.
    """
    key = config.key_file
    if key is None or not key.read_bytes().startswith(TOKEN):
        client.tls_set_context(context(config))
        return
    from device_agent.broker import tunnel  # few boards have a token

    def connect() -> Any:
        try:
            return tunnel.open_tunnel(config, timeout_s)
        except IdentityError as error:
            raise OSError(f"{error.reason}: {error}") from error

    client._create_socket_connection = connect  # type: ignore[method-assign] # the library has no place for a socket of ours


def context(config: BrokerConfig) -> ssl.SSLContext:
    """With a key in a file. Raises OSError naming the file."""
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
