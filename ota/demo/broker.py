"""An MQTT 5 broker in a process of its own, from the Python package `iotcore` (rumqttd inside). For demonstrations and tests."""

import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from boards.ports import free_port
from ota.errors import OtaError

MAX_PAYLOAD_BYTES = 1 << 20
START_TIMEOUT_S = 60.0
_CONFIG = """
id = 0

[router]
id = 0
max_connections = 200
max_outgoing_packet_count = 500
max_segment_size = 104857600
max_segment_count = 10

[v5.1]
name = "v5-1"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {payload}
max_inflight_count = 200
dynamic_filters = true
"""


class DemoBroker:
    """A broker on the loopback; forgets everything, retained messages too, when it stops."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Raises OtaError when the package iotcore is not installed."""
        try:
            import iotcore
        except ImportError:
            raise OtaError("the demo's broker is missing: pip install 'wamr-ota[demo]'") from None
        self.port = port or free_port()
        self._config = folder / f"broker-{self.port}.toml"
        self._config.write_text(_CONFIG.format(port=self.port, payload=MAX_PAYLOAD_BYTES), encoding="utf-8")
        self._iotcore: Any = iotcore
        self._broker: Any = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it listens. Raises OtaError when it does not."""
        self._launch()
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise OtaError(f"the broker did not listen on port {self.port} within {START_TIMEOUT_S:.0f} s")

    def _launch(self) -> None:
        self._broker = self._iotcore.Broker(config_path=str(self._config))
        self._broker.start()

    def stop(self) -> None:
        """Stops it. Again: no effect."""
        if self._broker is not None:
            self._broker.stop()
            self._broker = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
