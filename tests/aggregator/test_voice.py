import hashlib
from dataclasses import replace

import numpy as np
import pytest

from aggregator import release
from aggregator.config import Config, Rounds
from aggregator.voice import LAST_TERM, MOST_RAISES, MOST_STEP, Meeting, Voice
from shared import chunks, codec
from shared.cohort import marks
from shared.events import Connected
from shared.messages import AggregatorState, Chunk, Followed, Manifest
from shared.params import from_tensors
from shared.topics import BROKER_DROPPED

US, OTHER = "1" * 16, "2" * 16
PARAMS = from_tensors({"w": np.linspace(-1, 1, 50).reshape(5, 10), "b": [0.5]})
RELEASE = release.make(7, PARAMS)


def voice(*, takeover: bool = False, chunk_bytes: int = 100) -> Voice:
    speaker = Voice(Config(run="r", takeover=takeover), US, boot=3, term=5)
    speaker.connected(Connected(4, 2**20))
    speaker.chunk_bytes = chunk_bytes
    return speaker


def seen(**changes: object) -> bytes:
    head = codec.decode(Manifest, voice().manifest(RELEASE, 9, ()).payload)
    return codec.encode(replace(head, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100, 10**6])
def test_a_node_can_put_the_version_together_from_manifest_and_chunks(chunk_bytes: int) -> None:
    speaker = voice(chunk_bytes=chunk_bytes)
    head = codec.decode(Manifest, speaker.manifest(RELEASE, 9, {"b", "a"}).payload)
    sent = speaker.model(RELEASE)
    assert len(sent) == head.count
    assembly = chunks.Assembly(head.version, head.size, head.chunk_bytes)
    for message in reversed(sent):
        assembly.add(codec.decode(Chunk, message.payload))
    assert assembly.complete
    assert hashlib.sha256(assembly.body()).digest() == head.digest


def test_a_manifest_says_who_leads_and_what_to_do() -> None:
    message = voice().manifest(RELEASE, 9, {"b", "a"})
    head = codec.decode(Manifest, message.payload)
    assert message.retain
    assert (head.owner, head.boot, head.connection, head.term) == (US, 3, 4, 5)
    assert (head.round, head.version, head.slot) == (9, 7, 1)
    assert head.model == PARAMS.digest
    assert head.plan.cohort == marks("ab")


def test_a_manifest_of_an_open_round_asks_nobody_by_name() -> None:
    speaker = Voice(Config(rounds=Rounds(mode="buffered", max_staleness=4)), US, boot=3, term=5)
    head = codec.decode(Manifest, speaker.manifest(RELEASE, 9, (), open_=True).payload)
    assert (head.plan.open, head.plan.max_staleness, head.plan.cohort) == (True, 4, b"")


def test_it_listens_to_what_concerns_it_and_to_what_the_broker_dropped() -> None:
    speaker = voice()
    topics = speaker.connected(Connected(5, 2**20)).topics
    assert BROKER_DROPPED in topics
    assert speaker.topics.manifest in topics
    assert len(topics) == 5
    assert speaker.connection == 5


def test_chunks_are_retained_and_lie_in_their_slot() -> None:
    speaker = voice(chunk_bytes=200)
    sent = speaker.model(release.make(8, PARAMS))
    assert [message.topic for message in sent] == [
        speaker.topics.model_chunk(2, 0),
        speaker.topics.model_chunk(2, 1),
    ]
    assert all(message.retain for message in sent)


def test_the_will_names_its_connection() -> None:
    _, payload = voice().will(6)
    state = codec.decode_json(AggregatorState, payload)
    assert (state.alive, state.owner, state.boot, state.connection) == (False, US, 3, 6)


@pytest.mark.parametrize(
    ("payload", "meeting"),
    [
        (seen(), Meeting.FINE),
        (seen(term=4), Meeting.FINE),
        (seen(term=4, owner=OTHER), Meeting.BEHIND),
        (seen(term=5, owner="0" * 16), Meeting.BEHIND),
        (seen(term=5, owner=OTHER), Meeting.LED),
        (seen(term=6, owner=OTHER), Meeting.LED),
        (seen(term=6), Meeting.OUTRANKED),
        (seen(round=10), Meeting.OUTRANKED),
        (seen(version=8), Meeting.OUTRANKED),
        (seen(term=LAST_TERM, owner=OTHER), Meeting.GARBAGE),
        (b"", Meeting.GARBAGE),
    ],
)
def test_the_higher_term_and_owner_leads(payload: bytes, meeting: Meeting) -> None:
    assert voice().meet(payload, version=7, round_=9) is meeting


def test_whoever_may_take_over_goes_above_the_other_term() -> None:
    speaker = voice(takeover=True)
    assert speaker.meet(seen(term=9, owner=OTHER), 7, 9) is Meeting.OUTRANKED
    assert speaker.term == 10


def test_once_our_own_manifest_stands_a_higher_term_took_over_from_us() -> None:
    speaker = voice(takeover=True)
    ours = speaker.manifest(RELEASE, 9, ()).payload
    assert speaker.meet(ours, 7, 9) is Meeting.FINE
    assert speaker.meet(seen(term=9, owner=OTHER), 7, 9) is Meeting.LED


def test_a_cohort_that_is_as_large_as_may_be_fits_into_a_packet() -> None:
    speaker = Voice(Config(run="r" * 64), US, boot=2**53, term=LAST_TERM - 1)
    speaker.connected(Connected(1, 16 * 1024))
    names = [f"{number:x}".rjust(64, "n") for number in range(speaker.largest_cohort)]
    assert len(names) > 3300
    assert len(speaker.manifest(RELEASE, 2**53, names).payload) <= speaker.chunk_bytes


def followed(term: int, version: int = 7, round_: int = 9, owner: str = US) -> Followed:
    return Followed(term, owner, version, round_)


def test_a_node_that_followed_us_further_than_we_know_raises_our_term() -> None:
    speaker = voice()
    term = speaker.term
    assert not speaker.overruled(None, 7, 9)
    assert not speaker.overruled(followed(term + 4, owner=OTHER), 7, 9)
    assert not speaker.overruled(followed(term - 1, version=99), 7, 9)
    assert not speaker.overruled(followed(term), 7, 9)
    assert speaker.overruled(followed(term + 4, version=0), 7, 9)
    assert speaker.term == term + 5
    assert speaker.overruled(followed(term + 5, round_=10), 7, 9)
    assert speaker.term == term + 6


def test_a_node_that_lies_cannot_bring_the_terms_to_their_end() -> None:
    speaker = voice()
    term = speaker.term
    assert not speaker.overruled(followed(LAST_TERM), 7, 9)
    raises = [speaker.overruled(followed(speaker.term + MOST_STEP), 7, 9) for _ in range(100)]
    assert sum(raises) == MOST_RAISES
    assert not any(raises[MOST_RAISES:])
    assert speaker.term == term + MOST_RAISES * (MOST_STEP + 1)
