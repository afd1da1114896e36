"""Starts a real worker that was taken over, and prints what each attempt met. Arguments: database, then what to try."""

import asyncio
import json
import os
import sys
from pathlib import Path

from device_agent.channel import workers, zygote
from ota.formats.capabilities import Capabilities
from ota.formats.cbor import sha256
from ota.formats.module import ModuleDescription


async def main(database: Path, attempts: list[str]) -> None:
    workers.zygote = zygote.Zygote("tests.agent.hostile.taken_over")
    granted = Capabilities.parse({"messaging": {"publish": ["#"]}}, "hostile")
    blob = database.with_name("blob")
    blob.write_bytes(b"module")
    spec = workers.ModuleSpec(ModuleDescription("m", "1", granted), blob, sha256(b"module"), {})
    worker = workers.Worker(spec, lambda *_: None)
    await worker.start()
    found = {}
    for each in attempts:
        done = await worker.handle(each, f"{database} {os.getpid()}".encode())
        found[each] = int(done.messages[0][1])
    print(json.dumps({"found": found, "lacking": worker.lacking, "uid": Path(f"/proc/{worker.pid}").stat().st_uid}))
    status = Path(f"/proc/{worker.pid}/status").read_text()
    print(
        json.dumps(
            {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith(("Seccomp:", "NoNew", "Uid"))}
        )
    )
    worker.kill()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
