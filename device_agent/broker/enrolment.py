"""Getting a certificate with a token, once, before the board's first connection of its own. The module runs meanwhile.

Needs a listener of the broker that lets in clients without a certificate, for `ota/v1/enrol/#` alone.
"""

import asyncio
import contextlib
import logging
from dataclasses import replace
from pathlib import Path

from device_agent.broker.identity import IdentityError, check_certificate, signing_request, write_durably
from device_agent.broker.link import Link
from device_agent.node.config import Config
from ota.formats import topics
from ota.formats.enrolment import Answer, Request, Token
from ota.formats.reasons import Refused

__all__ = ["IdentityError", "enrol", "enrol_at_last"]

RETRY_MIN_S, RETRY_MAX_S = 10.0, 3600.0
logger = logging.getLogger(__name__)


async def enrol_at_last(config: Config, clock_set: asyncio.Event) -> None:
    """Enrols. After a refusal it tries again, at once when the clock is set; the operator may put another token in place."""
    assert config.broker is not None and config.broker.certificate_file is not None  # noqa: PT018
    wait_s, said = RETRY_MIN_S, ""
    while not config.broker.certificate_file.exists():
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


async def enrol(config: Config) -> None:
    """Asks until there is a certificate that fits. Raises IdentityError when the operator refuses, or the token can't be read."""
    broker, token_file = config.broker, config.enrolment_token
    assert broker is not None and broker.certificate_file is not None and broker.key_file is not None  # noqa: PT018
    assert token_file is not None
    token, request = await asyncio.to_thread(_question, token_file, broker.key_file, config.device)
    certificate = await _ask(config, token, request)
    await asyncio.to_thread(_keep, certificate, config)
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


def _keep(certificate: bytes, config: Config) -> None:
    broker, token_file = config.broker, config.enrolment_token
    assert broker is not None and broker.certificate_file is not None and broker.key_file is not None  # noqa: PT018
    assert token_file is not None
    check_certificate(certificate, broker.key_file, config.device)
    write_durably(broker.certificate_file, certificate)
    token_file.unlink(missing_ok=True)
    _kept_request(token_file).unlink(missing_ok=True)


def _kept_request(token_file: Path) -> Path:
    return token_file.with_name(token_file.name + ".request")


async def _ask(config: Config, token: Token, request: Request) -> bytes:
    assert config.broker is not None
    question, reply = (f(token.identifier.hex()) for f in (topics.enrolment_request, topics.enrolment_answer))
    found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def received(topic: str, payload: bytes) -> None:
        if topic != reply or found.done() or not payload:
            return
        try:
            answer = Answer.from_bytes(payload)
            answer.check(token, request)
        except Refused as error:
            logger.warning("an answer to the enrolment is passed over: %s", error)
            return
        if answer.reason:
            found.set_exception(IdentityError(f"the operator refused the enrolment: {answer.reason}"))
        else:
            found.set_result(answer.certificate)

    def online() -> None:
        link.publish(question, request.to_bytes(), retain=True)

    bare = replace(
        config.broker, url=config.enrolment_url or config.broker.url, certificate_file=None, key_file=None, session_expiry_s=0
    )
    link = Link(bare, config.device, received, online, lambda: None)
    link.subscribe(reply)
    logger.info("asking for a certificate at %s", bare.url)
    running = asyncio.ensure_future(link.run())
    try:
        certificate = await found
        await link.publish(question, b"", retain=True)
        return certificate
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
