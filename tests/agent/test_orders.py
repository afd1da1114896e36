"""What the operator wants, as it reaches the board: documents that come while an earlier one is still looked at."""

import asyncio
from collections import Counter
from types import SimpleNamespace

from device_agent.desired.orders import Orders
from device_agent.desired.roots import Start
from device_agent.instance.updates import Update
from ota.formats import topics, trust
from ota.formats.reasons import Reason
from ota.keyring import SigningKey
from tests.support.signing import NOW_S, Signer


class Desk:
    """Orders whose writer waits until it is let go, and a runner that keeps what is posted to it."""

    def __init__(self, signer: Signer) -> None:
        self.go, self.posted, self.numbers = asyncio.Event(), [], {}
        store = SimpleNamespace(number=lambda name: self.numbers.get(name, 0), raise_number=self.numbers.__setitem__)
        runner = SimpleNamespace(update=Update(), post=self.posted.append)
        config = SimpleNamespace(group="lab", device="board", retry_s=60)
        self.tasks = []
        root = trust.first_root(signer.root_document())
        self.orders = Orders(config, store, Start(root), None, runner, self.write, self.spawn_supervised, lambda: None, Counter())

    async def write(self, function, *values):
        await self.go.wait()
        return function(*values)

    def spawn_supervised(self, work) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    def wants(self, document: bytes) -> None:
        self.orders.received(topics.desired("lab"), document)

    async def rest(self) -> None:
        self.go.set()
        await asyncio.gather(*self.tasks)


def test_a_refusal_stays_when_the_look_at_an_earlier_deployment_ends_later():
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer)
        _, good = signer.deployment(bytes(32), fraction_ppm=0)
        _, forged = signer.deployment(bytes(32), keys=[SigningKey.generate()])
        desk.wants(good)
        desk.wants(forged)
        assert desk.orders.refusal.reason is Reason.SIGNER_UNKNOWN
        await desk.rest()
        assert desk.orders.refusal.reason is Reason.SIGNER_UNKNOWN

    asyncio.run(main())


def test_the_next_good_deployment_takes_a_refusal_away():
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer)
        _, forged = signer.deployment(bytes(32), keys=[SigningKey.generate()])
        _, good = signer.deployment(bytes(32), fraction_ppm=0)
        desk.wants(forged)
        desk.wants(good)
        await desk.rest()
        assert desk.orders.refusal is None

    asyncio.run(main())


def test_what_is_wrong_with_an_earlier_deployment_is_not_told_of_a_later_one():
    async def main():
        signer = Signer(now_s=NOW_S)
        desk = Desk(signer)
        _, old = signer.deployment(bytes(32))
        signer.epoch = 9
        deployment, new = signer.deployment(bytes(32), now_s=2**33)
        desk.numbers["deployment.lab"] = 5
        desk.wants(old)  # below what was seen
        desk.wants(new)
        await desk.rest()
        assert desk.orders.refusal.reason is Reason.CLOCK_NOT_SET  # of the new one, whose time has not come
        assert deployment.epoch == desk.numbers["deployment.lab"]
        assert not desk.posted

    asyncio.run(main())
