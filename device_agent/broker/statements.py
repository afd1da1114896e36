"""What a board signs: each statement with a counter that rises over all of them, also over restarts.

The upper bits of the counter are the number of the agent's start, which the store keeps and which is at least the time of the start
in seconds: so the counter goes on rising on a board whose storage was lost, if its clock is right.
"""

import asyncio
import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.broker.identity import Identity, IdentityError
from device_agent.broker.settings import BrokerConfig
from ota.formats.signed_report import CERTIFICATE_LIMIT_BYTES

__all__ = ["OWN_KEY", "STATEMENT_BITS", "Statements"]

OWN_KEY = "identity.pem"  # below the storage folder, of a board without a certificate
STATEMENT_BITS = 28  # of a start; the numbers of starts have 35
RETRY_S = 10.0  # before a token that failed is opened again
logger = logging.getLogger(__name__)


class Statements:
    """Signs with the key of the board's certificate where it has one, else with a key of its own beside its storage."""

    def __init__(self, broker: BrokerConfig | None, storage: Path) -> None:
        """Nothing can be signed before `begin`."""
        self._broker, self._own_file = broker, storage / OWN_KEY
        self._counter = itertools.count(0)
        self._turn = asyncio.Lock()
        self.problems: tuple[str, ...] = ()  # "code: text" each
        self._identity: Identity | None = None
        self._asking: threading.Thread | None = None  # a token that did not sign
        self._asked_s = -RETRY_S

    def begin(self, start: int) -> None:
        """Makes it ready. `start`: the number of this start of the agent, higher than that of any before. Waits for the disk."""
        self._counter = itertools.count(start << STATEMENT_BITS)
        self._identity = Identity(ec.generate_private_key(ec.SECP256R1()))
        self.renew()

    @property
    def identity(self) -> Identity:
        """What it signs with now. Raises IdentityError while its token can't be used."""
        if self._identity is None:
            raise IdentityError("the token with the board's key can't be used")
        return self._identity

    def renew(self) -> None:
        """Reads the key again: there is a new certificate. Waits for the disk, or the token."""
        try:
            self._identity, self.problems = self._certified() or Identity.load(self._own_file), ()
        except (IdentityError, OSError) as error:
            reason = getattr(error, "reason", "identity-unusable")
            if not reason.startswith("token-"):
                logger.error("reports are signed with a key that ends with this agent: %s", error)
            else:  # another key would only put what nobody believes in the place of the last good report
                self._identity = None
                self._say(f"{reason}: {error}")
            self.problems = (f"{reason}: {error}",)

    def close(self) -> None:
        """Ends the process of a token, where the key is in one."""
        token = sys.modules.get("device_agent.broker.token")  # only where a key file names one
        if token is not None:
            token.close()

    def _say(self, problem: str) -> None:
        if self.problems != (problem,):
            logger.error("nothing is signed, so nothing is reported, and the modules go on: %s", problem)

    def _ask_again(self) -> None:
        """Opens the token anew on a thread, now and then: it may take long."""
        now_s = time.monotonic()
        if now_s - self._asked_s >= RETRY_S and (self._asking is None or not self._asking.is_alive()):
            self._asked_s = now_s
            self._asking = threading.Thread(target=self.renew, daemon=True, name="token")
            self._asking.start()

    async def sign(self, kind: str, encode: Callable[[int], bytes], *, introduce: bool = False) -> bytes:
        """A statement of a kind of ota.formats.signed_report; `encode` makes its payload with a counter.

        Signed on a thread, for a token may take long, and one after the other: who asks first has the lower counter.
        `introduce`: the key goes with it. Raises IdentityError while the token with the key can't be used.
        """
        async with self._turn:
            return await self._sign(kind, encode(next(self._counter)), introduce=introduce)

    async def _sign(self, kind: str, payload: bytes, *, introduce: bool) -> bytes:
        try:
            return await asyncio.to_thread(self.identity.sign1, payload, kind, introduce=introduce)
        except IdentityError as error:
            if self._identity is not None:
                problem = f"{error.reason}: {error}"
                self._say(problem)
                self._identity, self.problems = None, (problem,)
            self._ask_again()
            raise

    def _certified(self) -> Identity | None:
        """None for a board without a certificate, and for one whose certificate can't be shown: reports have a size."""
        if self._broker is None or self._broker.certificate_file is None or self._broker.key_file is None:
            return None
        if not (self._broker.certificate_file.exists() and self._broker.key_file.exists()):
            return None
        found = Identity.load(self._broker.key_file, self._broker.certificate_file)
        return found if len(found.certificate) <= CERTIFICATE_LIMIT_BYTES else None
