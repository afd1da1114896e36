"""A board renews its certificate by itself, from two thirds of its lifetime on; the modules run meanwhile.

The next certificate is kept beside the present one, proved by connecting with it, and then takes its place
(device_agent.broker.pair). One that the broker refuses is given up, and the present one stays. With a certificate that has expired,
the board asks where boards without one do.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from device_agent.broker.certificates import Standing, asks_for, check_candidate, serial_of, signing_request, standing
from device_agent.broker.enrolment import ask
from device_agent.broker.identity import Identity, IdentityError
from device_agent.broker.link import Link
from device_agent.broker.pair import Pair
from device_agent.broker.settings import BrokerConfig, RenewalConfig
from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from ota.formats.enrolment import address
from ota.formats.reasons import Refused
from ota.formats.renewal import REQUEST_TYPE, RenewalAnswer, RenewalRequest, mark_of

__all__ = ["Renewal"]

PROVE_S = 400.0  # until a connection must have worked or ended; the longest delay before one is five minutes
PROOFS = 3  # a broker that takes the present certificate and not the next one, so many times in turn, refuses it
GIVEN_UP_S = 86_400.0  # until another certificate is asked for
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asker:
    """The board that asks."""

    device: str
    broker: BrokerConfig
    enrolment_url: BrokerUrl | None
    config: RenewalConfig


class Renewal:
    """`run` looks, again and again. Its other methods are called by the loop."""

    def __init__(
        self, asker: Asker, pair: Pair, link: Link, promoted: Callable[[], None], time_s: Callable[[], float] = time.time
    ) -> None:
        """`promoted` is called on a thread when another key and certificate are in place."""
        self._asker, self._pair, self._link, self._promoted, self._time_s = asker, pair, link, promoted, time_s
        self._topics = topics.renewal_request(asker.device), topics.renewal_answer(asker.device)
        self._answers: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._question_out = b""  # to be retained on the broker until there is an answer
        self._wake = asyncio.Event()
        self._rests_until = 0.0  # by the loop's clock: a certificate was given up
        self.problems: tuple[str, ...] = ()  # "code: text" each

    async def run(self) -> None:
        """Looks hourly, with jitter, and at once when the clock was set. Never ends."""
        while True:
            self._wake.clear()
            try:
                await self._look()
            except (IdentityError, OSError, Refused) as error:
                self._say(f"certificate-not-renewed: {error}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._asker.config.period_s * random.uniform(0.5, 1.0)):  # noqa: S311
                    await self._wake.wait()

    def poke(self) -> None:
        """The clock was set."""
        self._wake.set()

    def online(self) -> None:
        """The link has connected: what waits for an answer is put there once more, should the broker have lost it."""
        if self._question_out:
            self._link.publish(self._topics[0], self._question_out, retain=True)

    def received(self, topic: str, payload: bytes) -> bool:
        """Takes an answer of the broker's; returns whether it was one."""
        if topic != self._topics[1]:
            return False
        if payload:
            with contextlib.suppress(asyncio.QueueEmpty):
                self._answers.get_nowait()
            self._answers.put_nowait(payload)
        return True

    def _say(self, problem: str) -> None:
        if self.problems != (problem,):
            logger.error("%s", problem)
        self.problems = (problem,)

    async def _look(self) -> None:
        if await asyncio.to_thread(self._pair.settle):  # the disk was full, say
            await self._took_place()
        found = await asyncio.to_thread(standing, self._pair.certificate, self._time_s())
        if not found.due:
            self.problems = ()
        if found.expired:
            self.problems = (f"certificate-expired: on {found.until}; the board goes on and asks for another",)
        if not await asyncio.to_thread(lambda: self._pair.has_candidate):
            if not found.due or asyncio.get_running_loop().time() < self._rests_until:
                return
            if not await self._get(found):
                return
        await self._prove(found)

    # -- asking

    async def _get(self, found: Standing) -> bool:
        """Asks, and keeps what comes; returns False when nothing did until the next look."""
        if found.authority is None:
            raise IdentityError(f"{self._pair.certificate} does not hold the certificate of its issuer, who alone can renew it")
        signing, message = await asyncio.to_thread(self._question)
        logger.info("asking for the next certificate; the present one is good until %s", found.until)
        try:
            async with asyncio.timeout(self._asker.config.period_s):
                if found.expired:
                    await self._ask_without_certificate(found, signing, message)
                else:
                    await self._ask(found, signing, message)
        except TimeoutError:
            return False
        return True

    def _question(self) -> tuple[bytes, bytes]:
        """The signing request, and the message with it, signed with the present key."""
        asker, pair = self._asker, self._pair
        if not pair.has_request or not asks_for(pair.request.read_bytes(), pair.next_key, asker.device):
            pair.begin(lambda key: signing_request(key, asker.device), new_key=asker.config.new_key)
        signing = pair.request.read_bytes()
        refused = serial_of(pair.refused.read_bytes()) if pair.refused.exists() else b""
        request = RenewalRequest(asker.device, signing, refused)
        return signing, Identity.load(pair.key, pair.certificate).sign1(request.to_payload(), REQUEST_TYPE)

    async def _ask(self, found: Standing, signing: bytes, message: bytes) -> None:
        self._question_out = message
        self._link.subscribe(self._topics[1])
        try:
            self.online()
            while True:
                payload = await self._answers.get()
                try:
                    answer = self._read(found, signing, payload)
                except Refused as error:  # an answer to an earlier request, or somebody else's
                    logger.info("an answer to the renewal is passed over: %s", error)
                    continue
                await asyncio.to_thread(self._keep, answer)
                return
        finally:
            self._question_out = b""
            self._link.unsubscribe(self._topics[1])

    async def _ask_without_certificate(self, found: Standing, signing: bytes, message: bytes) -> None:
        async def keep(answer: RenewalAnswer) -> None:
            await asyncio.to_thread(self._keep, answer)

        def take(payload: bytes) -> RenewalAnswer:
            return self._read(found, signing, payload)

        await ask(self._asker.broker, self._asker.enrolment_url, address(signing), message, take, keep)

    def _read(self, found: Standing, signing: bytes, payload: bytes) -> RenewalAnswer:
        """Raises Refused for what the authority did not answer to this request, IdentityError for its refusal."""
        assert found.authority is not None
        answer = RenewalAnswer.verified(payload, found.authority, self._asker.device, mark_of(signing))
        if answer.reason:
            raise IdentityError(f"the operator refused it: {answer.reason}")
        return answer

    def _keep(self, answer: RenewalAnswer) -> None:
        check_candidate(answer.certificate, answer.authorities, self._pair.next_key, self._asker.device, self._time_s())
        self._pair.keep_candidate(answer.certificate, answer.authorities)

    # -- proving

    async def _prove(self, found: Standing) -> None:
        """Connects with the candidate; where the broker refuses it and takes the present certificate, gives it up."""
        broker, pair = self._asker.broker, self._pair
        try:
            await asyncio.to_thread(self._check_candidate)
        except IdentityError:  # it ended while the broker was away, or the board was given another name
            await asyncio.to_thread(pair.give_up)
            raise
        for _ in range(PROOFS):
            if await self._works(pair.candidate(broker), "connecting with the next certificate"):
                await self._promote()
                return
            if found.expired:
                return  # the present one opens nothing: the link goes on trying the candidate
            if not await self._works(broker, "back to the present certificate"):
                logger.info("neither certificate opens the broker: trying the next one again later")
                return
        await asyncio.to_thread(pair.give_up)
        self._rests_until = asyncio.get_running_loop().time() + GIVEN_UP_S
        self._say("certificate-not-renewed: the broker refuses the next certificate and takes the present one, which stays")

    def _check_candidate(self) -> None:
        certificate = self._pair.next_certificate.read_bytes()
        check_candidate(certificate, b"", self._pair.next_key, self._asker.device, self._time_s())

    async def _promote(self) -> None:
        await asyncio.to_thread(self._pair.promote)
        await self._took_place()

    async def _took_place(self) -> None:
        self._link.use(self._asker.broker)
        self._link.publish(self._topics[0], b"", retain=True)
        await asyncio.to_thread(self._promoted)
        self.problems = ()
        logger.info("the next certificate is in place")

    async def _works(self, config: BrokerConfig, reason: str) -> bool:
        """Whether a connection that is made so brings a granted subscription."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROVE_S):
                return await self._link.use(config, reason)
        return False
