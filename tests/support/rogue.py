"""A worker that was taken over: it does whatever the topic of an event says."""

from device_agent.channel import frames
from device_agent.channel.frames import Done, KeyWrite, Log, Ready

PARTING = "parting"  # an event's topic, or the state to begin with: answers, and ends
ANSWERS = {
    "topic": Done((("else/where", b""),), ()),
    "no-topic": Done((("out/#", b""),), ()),
    "bytes": Done((("out/x", bytes(60_000)),) * 5, ()),
    "quota": Done((), (KeyWrite("a", bytes(60)), KeyWrite("b", bytes(60)))),
    "key": Done((), (KeyWrite("k" * 300, b""),)),
    "no-key": Done((), (KeyWrite("", None),)),
    "answer": Done((("out/x", b""),), (), reply_to={0: "local/#"}),
    PARTING: Done((("out/x", b"goodbye"),), ()),
    "good": Done((("out/x", b"x"),), (KeyWrite("a", bytes(50)),)),
}


def warm_up():
    """There is nothing to make ready."""


def main(channel):
    receiver = frames.Receiver()
    while data := receiver.take(channel):
        request = frames.decode_request(data)
        answer = Ready(frozenset({"events"}), "interpreter", frozenset()) if isinstance(request, frames.Start) else Done((), ())
        topic = request.row[0].topic if isinstance(request, frames.Events) else ""
        while topic == "flood":
            channel.send(frames.encode_answer(Log("info", "")))
        channel.send(frames.encode_answer(ANSWERS[topic] if topic else answer))
        if PARTING in (topic, getattr(request, "state", b"").decode()):
            return
