"""Getting a certificate where none opens the broker: with a token, before the first connection, or for one that has expired.

The module runs meanwhile. Needs a listener of the broker that lets in clients without a certificate, for `ota/v1/enrol/#` alone.
Requests and answers lie under an address that only who has read the request knows, and the client identifier is made of it: no
stranger can overwrite a request, or disconnect a board by its name.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from device_agent.broker.certificates import check_certificate, signing_request
from device_agent.broker.identity import IdentityError, write_durably
from device_agent.broker.link import Link
from device_agent.broker.settings import BrokerConfig, Enrolling
from ota.formats import topics
from ota.formats.broker_url import BrokerUrl
from ota.formats.enrolment import Answer, Request, Token, address
from ota.formats.reasons import Refused

__all__ = ["IdentityError", "ask", "enrol", "enrol_at_last"]

T = TypeVar("T")
RETRY_MIN_S, RETRY_MAX_S = 10.0, 3600.0
ASK_AGAIN_S = 3600.0  # a broker may have lost what it acknowledged
logger = logging.getLogger(__name__)


async def enrol_at_last(config: Enrolling, clock_set: asyncio.Event) -> None:
    """Enrols. After a refusal it tries again, at once when the clock is set; the operator may put another token in place."""
    assert config.broker is not None and config.broker.certificate_file is not None  # noqa: PT018
    wait_s, said = RETRY_MIN_S, ""
    while not await asyncio.to_thread(config.broker.certificate_file.exists):
        clock_set.clear()
        try:
            await enrol(config)
            return
        except (IdentityError, OSError) as error:
            if str(error) != said:
                said = str(error)
                logger.error("no certificate: %s; the module goes on, the board asks again later", error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await clock_set.wait()
        wait_s = min(2 * wait_s, RETRY_MAX_S)


async def enrol(config: Enrolling) -> None:
    """Asks until there is a certificate that fits. Raises IdentityError when the operator refuses, or the token can't be read."""
    broker, token_file = config.broker, config.enrolment_token
    assert broker is not None and broker.certificate_file is not None and broker.key_file is not None  # noqa: PT018
    assert token_file is not None
    token, request = await asyncio.to_thread(_question, token_file, broker.key_file, config.device)

    def take(payload: bytes) -> bytes:
        answer = Answer.from_bytes(payload)
        answer.check(token, request)
        if answer.reason:
            raise IdentityError(f"the operator refused the enrolment: {answer.reason}")
        return answer.certificate

    async def keep(certificate: bytes) -> None:
        await asyncio.to_thread(_keep, certificate, config)

    await ask(broker, config.enrolment_url, address(request.signing_request), request.to_bytes(), take, keep)
    logger.info("enrolled as %s", config.device)


def _question(token_file: Path, key_file: Path, device: str) -> tuple[Token, Request]:
    try:
        token = Token.from_text(token_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, Refused) as error:
        raise IdentityError(f"{token_file}: {error}") from error
    # ECDSA signatures differ each time: the request is kept, so that asking again is the same request.
    kept = _kept_request(token_file)
    if not kept.exists():
        write_durably(kept, signing_request(key_file, device))
    return token, Request.make(token, device, kept.read_bytes())


def _keep(certificate: bytes, config: Enrolling) -> None:
    broker, token_file = config.broker, config.enrolment_token
    assert broker is not None and broker.certificate_file is not None and broker.key_file is not None  # noqa: PT018
    assert token_file is not None
    check_certificate(certificate, broker.key_file, config.device)
    write_durably(broker.certificate_file, certificate)
    token_file.unlink(missing_ok=True)
    _kept_request(token_file).unlink(missing_ok=True)


def _kept_request(token_file: Path) -> Path:
    return token_file.with_name(token_file.name + ".request")


async def ask(
    broker: BrokerConfig,
    url: BrokerUrl | None,
    where: str,
    request: bytes,
    take: Callable[[bytes], T],
    keep: Callable[[T], Coroutine[Any, Any, None]],
) -> None:
    """Asks at the listener for boards without a certificate, until there is an answer; takes the request away after `keep`.

    `take` reads an answer. It raises Refused for one that is not to this board, which is passed over, and IdentityError for a
    refusal, which is raised here too.
    """
    question, reply = topics.enrolment_request(where), topics.enrolment_answer(where)
    found: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def received(topic: str, payload: bytes) -> None:
        if topic != reply or found.done() or not payload:
            return
        try:
            found.set_result(take(payload))
        except Refused as error:
            logger.warning("an answer to a request for a certificate is passed over: %s", error)
        except IdentityError as error:
            found.set_exception(error)

    def online() -> None:
        link.publish(question, request, retain=True)

    bare = replace(broker, url=url or broker.url, certificate_file=None, key_file=None, session_expiry_s=0)
    link = Link(bare, where, received, online, lambda: None, client_id=where)
    link.subscribe(reply)
    logger.info("asking for a certificate at %s", bare.url)
    running = asyncio.ensure_future(link.run())
    try:
        while not (await asyncio.wait((found,), timeout=ASK_AGAIN_S))[0]:
            online()
        await keep(found.result())
        await link.publish(question, b"", retain=True)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
