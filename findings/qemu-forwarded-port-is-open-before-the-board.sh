#!/usr/bin/env bash
# QEMU 7.2 (Debian 12): a port that is forwarded to a board takes connections, and bytes, before the board has run one instruction.
#
# A good engineer would guess: `hostfwd=tcp:127.0.0.1:P-:22` is a forwarder. Where nobody listens behind it a connection is refused, so a test
#   bench waits until the port is open, as it does for a service in a container, and then the board is up.
# What happens: QEMU listens itself, from its start. With a processor that was never started (-S) a connection is made at once, what is sent is
#   taken, and nothing comes back: no answer, no reset, no end. The manual says that
#   connections to the host's port are redirected to the guest's, and no more of it.
# Why it matters here: an emulated board that is waited for like this counts as up while it boots (six seconds and more), and a client without
#   a timeout waits for ever. Our tests wait for what the board itself says, at the broker or on its console, and `ssh` has a limit
#   for its greeting (ConnectTimeout).
# From Debian 12: qemu-system-arm.
set -euo pipefail
folder=$(mktemp -d)
board=
trap '[ -z "$board" ] || kill "$board"; rm -rf "$folder"' EXIT
cd "$folder"
port=$(python3 -c 'import socket
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1])')
qemu-system-aarch64 --version | head -1
qemu-system-aarch64 -S -M virt -cpu cortex-a53 -display none -nodefaults -device virtio-net-device,netdev=net \
    -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:22" -qmp unix:monitor,server=on,wait=off &
board=$!
cat > seen.py <<'PYTHON'
import json
import socket
import sys
import time
from pathlib import Path

while not Path("monitor").exists():
    time.sleep(0.1)
time.sleep(1)
monitor = socket.socket(socket.AF_UNIX)
monitor.connect("monitor")
lines = monitor.makefile("rw")
lines.readline()
for command in ("qmp_capabilities", "query-status"):
    print(json.dumps({"execute": command}), file=lines, flush=True)
    answer = json.loads(lines.readline())
status = answer["return"]["status"]
print("the processor:", status)
link = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=5)
link.sendall(b"SSH-2.0-waiting\r\n")
print("connected, and 17 bytes were taken")
try:
    came = link.recv(1)
except TimeoutError:
    came = None
print("within 5 s came:", "nothing" if came is None else "the end" if came == b"" else came)
sys.exit(0 if status == "prelaunch" and came is None else 1)
PYTHON
python3 seen.py "$port"
# Seen on two runs:
#   QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)
#   the processor: prelaunch
#   connected, and 17 bytes were taken
#   within 5 s came: nothing
