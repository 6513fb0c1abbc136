"""Whether the broker's access rules let a party do what it must, and nothing else (rule T2).

Only the topics of the real run tell, so there it is said what live parties leave alone (T3):
nothing retained, and empty chunks with a number beyond all that the protocol names. A node's state
has no such number: it gets the death of a stranger, which the aggregator ignores and the node
itself answers with its birth. Offers, manifest, the aggregator's state and events are not tried:
what is said there is taken at its word.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from midge.diagnosis import Finding, Remedy
from midge.probe import LinkError, Probe
from shared import codec
from shared.messages import NodeState
from shared.topics import ROOT, Topics

AGGREGATOR = "midge-aggregator"
"""The aggregator's name to the broker, in its certificate and in mosquitto/acl."""

_NUMBER = 999_999  # of a chunk or a page: `Topics` reads five digits at most
_ECHO_S = 1.5


@dataclass(frozen=True, slots=True)
class Role:
    """Who we are to the access rules: a node by its name, or the aggregator."""

    run: str
    node: str | None
    """None for the aggregator."""
    username: str | None
    known: bool
    """Whether the broker can tell us from others, by user name or certificate."""

    def __str__(self) -> str:
        return "the aggregator" if self.node is None else f"node {self.node}"

    def rules(self) -> tuple[str, ...]:
        """All that an access rule file of Mosquitto must allow, and no more (T2)."""
        root = f"{ROOT}/{self.run}"
        if self.node is not None and self.node == self.username:  # one rule for every node
            return (
                f"pattern readwrite {root}/up/%u/#",
                f"pattern read {root}/down/receipt/%u",
                f"pattern read {root}/down/model/#",
            )
        user = (f"user {self.username}",) if self.username else ()
        if self.node is not None:
            return (
                *user,
                f"topic readwrite {root}/up/{self.node}/#",
                f"topic read {root}/down/receipt/{self.node}",
                f"topic read {root}/down/model/#",
            )
        return (
            *user,
            f"topic readwrite {root}/down/#",
            f"topic readwrite {root}/aggregator/#",
            f"topic write {root}/events",
            f"topic read {root}/up/#",
        )


def own_topics(role: Role, forbidden: Sequence[str]) -> Finding:
    """`forbidden` says what the role must do and may not, such as "publish to a/b"."""
    what = "own topics"
    if not forbidden:
        return Finding(what, "ok", f"{role} may use them")
    remedy = Remedy(
        f"With these rules {role} cannot take part. In the file that acl_file names (and then "
        "systemctl reload mosquitto):",
        role.rules(),
    )
    return Finding(what, "wrong", f"{role} may not {', '.join(forbidden)}", remedy)


def foreign_topics(role: Role, writable: Sequence[str], untold: Sequence[str]) -> Finding:
    """Topics of others that the role can write; of those in `untold` nobody can say."""
    what = "topics of others"
    if writable and not role.known:
        remedy = Remedy(
            "Nobody needs a name here: whoever reaches this broker can read the model and pose as "
            "any node and as the aggregator. Fine where you trust every machine on the network; "
            "else, in the broker's configuration:",
            (
                "allow_anonymous false",
                "password_file /etc/mosquitto/passwd",
                "acl_file /etc/mosquitto/acl",
            ),
        )
        return Finding(what, "warning", "everybody may write everything", remedy)
    if writable:
        remedy = Remedy(
            f"Whoever has the password of {role} can pose as others. Take out of the access rules "
            "what allows it, often a + or # too many; if there is no acl_file, make one. No more "
            "than this is needed:",
            role.rules(),
        )
        figure = f"{role} can write {', '.join(writable)}"
        return Finding(what, "warning" if role.node is None else "wrong", figure, remedy)
    if untold:
        return Finding(what, "not tested", "MQTT 3.1.1 does not tell, and we may not listen there")
    return Finding(what, "ok", f"{role} cannot write them")


def examine(
    role: Role, token: str, client: Callable[[], Probe], *, tells: bool
) -> tuple[Finding, Finding]:
    """Try the rules of a role.

    Args:
        role: as whom `client` connects.
        token: makes the name of a node that nobody has.
        client: makes one that is not connected yet; a refusal costs it its connection.
        tells: whether the broker says no (MQTT 5). On 3.1.1 only an echo proves something.
    """
    topics, stranger = Topics(role.run), f"doctor-{token}"
    up = [topics.update(stranger, _NUMBER)]
    down = [
        topics.model_chunk(_NUMBER, _NUMBER),
        topics.receipt(stranger),
        topics.roster(_NUMBER),
    ]
    if role.node is None:
        own, foreign = down, up
        reads = [topics.every_offer, topics.every_update, topics.every_state, topics.manifest]
        words = topics.roster(_NUMBER), b""
    else:
        own, foreign = [topics.update(role.node, _NUMBER)], [*up, *down]
        reads = [topics.manifest, topics.receipt(role.node), topics.state(role.node)]
        death = NodeState(alive=False, state_id=secrets.token_hex(8), boot=0, connection=0)
        words = topics.state(role.node), codec.encode_json(death)
    may = {topic: _can_write(client(), topic, tells=tells) for topic in (*own, *foreign)}
    forbidden = [
        *_not_heard(client(), reads, words),
        *(f"publish to {topic}" for topic in own if may[topic] is False),
    ]
    return (
        own_topics(role, list(dict.fromkeys(forbidden))),
        foreign_topics(
            role,
            writable=[topic for topic in foreign if may[topic]],
            untold=[topic for topic in foreign if may[topic] is None],
        ),
    )


def _not_heard(probe: Probe, topics: Sequence[str], words: tuple[str, bytes]) -> list[str]:
    """Subscribe, and say `words`, which must come back if their topic is among those; gives what
    was forbidden.
    """
    try:
        with probe:
            probe.subscribe(*topics)
            probe.say(*words)
            probe.acknowledged()
            if words[0] in topics and not probe.hear(*words, timeout_s=_ECHO_S):
                return [f"read {words[0]}"]
            reason = probe.refusal()
    except LinkError as error:
        reason = str(error)
    # As the transport has it: X forbids the client Y to publish to Z (why); what helps.
    return [reason.partition(" to ")[2].partition(" (")[0] or reason] if reason else []


def _can_write(probe: Probe, topic: str, *, tells: bool) -> bool | None:
    """Whether the broker takes a message to a topic; None when it does not say."""
    try:
        with probe:
            if tells:
                probe.say(topic, b"")
                return not probe.refusal() if probe.acknowledged() else None
            probe.subscribe(topic)
            probe.say(topic, b"")
            return probe.hear(topic, b"", _ECHO_S) or None
    except LinkError as error:
        # Some brokers end the connection; a refusal on 3.1.1 was that of the subscription.
        return None if error.final and not tells else False
