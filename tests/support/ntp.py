"""A server of NTP (RFC 5905, a client's one question and its answer) on the loopback."""

import socket
import struct
import threading
import time

SINCE_1900_S = 2208988800


class TimeServer:
    """Answers with this machine's time until it is closed; `asked` counts."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.asked = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                question, sender = self._socket.recvfrom(1024)
            except OSError:
                return
            if len(question) < 48:
                continue
            self.asked += 1
            now = int((time.time() + SINCE_1900_S) * 2**32)
            head = struct.pack(">BBbbIII", 0x24, 1, 4, -20, 0, 0, 0x4C4F434C)  # version 4, a server, of stratum 1
            self._socket.sendto(head + struct.pack(">Q8sQQ", now, question[40:48], now, now), sender)

    def close(self) -> None:
        self._socket.close()
