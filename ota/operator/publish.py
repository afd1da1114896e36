"""Putting an update on the broker and pointing a group at it."""

import secrets
from collections.abc import Callable

from ota.author.build import Update
from ota.formats import topics
from ota.formats.deployment import DEPLOYMENT_TYPE, FRACTION_ALL, Deployment
from ota.formats.deployment import verify as verify_deployment
from ota.formats.reasons import Refused
from ota.keyring import sign_document
from ota.operator.broker import Broker
from ota.operator.workspace import Workspace

DEFAULT_LIFETIME_S = 30 * 86_400


def artifacts(update: Update) -> list[tuple[str, bytes]]:
    """Chunks, index and manifest as retained messages, in the order in which they may be seen."""
    messages = []
    for blob, index in update.blobs:
        step = index.chunk_bytes
        chunks = (blob[number * step : (number + 1) * step] for number in range(len(index.digests)))
        messages += [(topics.blob_chunk(index.digest, number), chunk) for number, chunk in enumerate(chunks)]
        messages.append((topics.blob_index(index.digest), index.to_bytes()))
    return [*messages, (topics.manifest(update.digest), update.envelope)]


def deploy(
    workspace: Workspace,
    broker: Broker,
    update: Update,
    group: str,
    now_s: int,
    *,
    fraction_ppm: int = FRACTION_ALL,
    lifetime_s: int = DEFAULT_LIFETIME_S,
    progress: Callable[[int], None] = lambda _: None,
) -> Deployment:
    """Publishes everything that the group's boards need, the deployment last; returns it once the broker has it all."""
    roots = [(topics.root(number), document) for number, document in workspace.root_documents().items()]
    deployment = Deployment(
        group=group,
        deployment_id=secrets.token_bytes(16),
        manifest_digest=update.digest,
        epoch=workspace.next_epoch(group, _epoch_on_broker(workspace, broker, group)),
        issued_s=now_s,
        expires_s=now_s + lifetime_s,
        fraction_ppm=fraction_ppm,
    )
    document = sign_document(deployment.to_payload(), DEPLOYMENT_TYPE, [workspace.key("deploy")])
    broker.publish_all([*roots, *artifacts(update)], progress)
    broker.publish_all([(topics.desired(group), document)], progress)
    return deployment


def _epoch_on_broker(workspace: Workspace, broker: Broker, group: str) -> int:
    """The epoch of the deployment that is on the broker, if our own keys signed it: another operator may have been here."""
    present = broker.retained_one(topics.desired(group))
    if present is None:
        return 0
    try:
        return verify_deployment(present, workspace.root(), group).epoch
    except Refused:
        return 0
