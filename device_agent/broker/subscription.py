"""The kinds of subscriptions that a board has at the broker."""

import enum

from paho.mqtt.subscribeoptions import SubscribeOptions

__all__ = ["INPUT_AGAIN", "Kind"]


class Kind(enum.Enum):
    """What a subscription is for."""

    DOCUMENT = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)
    # QoS 0: a part is named by its digest and asked for again on the next connection; a broker that keeps the session
    # would send QoS 1 messages of the old connection once more.
    PART = SubscribeOptions(qos=0, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)
    # No Local: what a module says is given to the other modules here at once, and is not to come back.
    INPUT = SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
    MARKER = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)


# Takes the place of a subscription of the kind INPUT that there is, with no message lost: MQTT 5, section 3.8.4.
INPUT_AGAIN = SubscribeOptions(qos=1, noLocal=True, retainHandling=SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE)
