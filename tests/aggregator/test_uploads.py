import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config import Limits
from aggregator.uploads import ASKED_BYTES, BRISK_BYTES, BRISK_S, Uploads
from shared import chunks
from shared.errors import PeerError
from shared.messages import Chunk, Offer

QUARTER = ASKED_BYTES // 4
"""Four chunks are asked for at a time."""
BODY = bytes(range(256)) * (10 * QUARTER // 256)


def an_offer(counter: int = 1, chunk_bytes: int = QUARTER, body: bytes = BODY) -> Offer:
    return Offer(
        state_id=16 * "1",
        counter=counter,
        base_version=0,
        base=bytes(32),
        spec=bytes(32),
        round=1,
        size=len(body),
        chunk_bytes=chunk_bytes,
        digest=hashlib.sha256(body).digest(),
        compression="none",
        samples=1,
        metrics={},
        body=None,
    )


OFFER = an_offer()


def always(_: str, __: Offer) -> bool:
    return True


def a_chunk(index: int, offer: Offer = OFFER) -> Chunk:
    return chunks.cut(BODY, offer.digest, offer.counter, index, offer.chunk_bytes)


@pytest.fixture(autouse=True, scope="module")
def slow_links() -> Iterator[None]:
    """Nobody keeps others waiting by being quick, but where a test is about that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aggregator.uploads.BRISK_BYTES", 100 * len(BODY))
        yield


@pytest.fixture
def uploads() -> Uploads:
    """Room for two bodies; a transfer is forgotten after 10 s without anything new."""
    return Uploads(Limits(uploads_bytes=2 * len(BODY), upload_idle_s=10.0))


# In parts


def test_a_body_is_asked_for_in_parts_and_the_next_when_these_are_here(uploads: Uploads) -> None:
    assert uploads.ask("ann", OFFER, 0.0) == [0, 1, 2, 3]
    for index in (3, 0, 1):
        upload = uploads.add("ann", a_chunk(index), 0.0)
        assert upload is not None
        assert upload.asked, "the next would be asked for too early"
    upload = uploads.add("ann", a_chunk(2), 0.0)
    assert upload is not None
    assert upload.asked == set()
    assert upload.ask() == [4, 5, 6, 7]
    for index in (4, 5, 6, 7):
        uploads.add("ann", a_chunk(index), 0.0)
    assert upload.ask() == [8, 9]
    for index in (8, 9):
        uploads.add("ann", a_chunk(index), 0.0)
    assert upload.assembly.complete
    assert upload.assembly.body() == BODY


@pytest.mark.parametrize(("chunk_bytes", "first"), [(ASKED_BYTES, [0]), (4 * ASKED_BYTES, [0])])
def test_one_chunk_is_asked_for_however_large_it_is(
    uploads: Uploads, chunk_bytes: int, first: list[int]
) -> None:
    assert uploads.ask("ann", an_offer(chunk_bytes=chunk_bytes), 0.0) == first


def test_an_offer_that_is_repeated_asks_again_for_what_is_missing(uploads: Uploads) -> None:
    uploads.ask("ann", OFFER, 0.0)
    uploads.add("ann", a_chunk(1), 0.0)
    assert uploads.ask("ann", OFFER, 1.0) == [0, 2, 3, 4]


def test_a_chunk_that_was_not_asked_for_is_taken_all_the_same(uploads: Uploads) -> None:
    uploads.ask("ann", OFFER, 0.0)
    upload = uploads.add("ann", a_chunk(9), 0.0)
    assert upload is not None
    assert upload.asked == {0, 1, 2, 3}
    assert 9 not in upload.assembly.missing()


def test_what_brings_nothing_new_is_told_apart(uploads: Uploads) -> None:
    assert uploads.add("ann", a_chunk(0), 0.0) is None  # nothing was offered
    uploads.ask("ann", OFFER, 0.0)
    assert uploads.add("ann", a_chunk(0), 0.0) is not None
    assert uploads.add("ann", a_chunk(0), 0.0) is None
    assert uploads.add("ann", replace(a_chunk(1), of=2), 0.0) is None  # of an earlier update
    with pytest.raises(PeerError, match="does not match its digest"):
        uploads.add("ann", replace(a_chunk(1), digest=bytes(32)), 0.0)


def test_another_update_of_a_node_takes_the_place_of_the_first(uploads: Uploads) -> None:
    uploads.ask("ann", OFFER, 0.0)
    uploads.add("ann", a_chunk(0), 0.0)
    assert uploads.ask("ann", an_offer(2), 0.0) == [0, 1, 2, 3]
    assert uploads.unfinished() == {"ann": an_offer(2)}


# Cut another way


def test_a_finer_cut_goes_on_with_what_is_here(uploads: Uploads) -> None:
    fine = an_offer(chunk_bytes=QUARTER // 2)
    uploads.ask("ann", OFFER, 0.0)
    uploads.add("ann", a_chunk(1), 0.0)
    assert uploads.ask("ann", fine, 0.0) == [0, 1, 4, 5, 6, 7, 8, 9]
    assert uploads.add("ann", a_chunk(4, fine), 0.0) is not None


@pytest.mark.parametrize("chunk_bytes", [2 * QUARTER, QUARTER - 1])
def test_any_other_cut_begins_anew(uploads: Uploads, chunk_bytes: int) -> None:
    other = an_offer(chunk_bytes=chunk_bytes)
    uploads.ask("ann", OFFER, 0.0)
    uploads.add("ann", a_chunk(0), 0.0)
    at_a_time = ASKED_BYTES // chunk_bytes
    assert uploads.ask("ann", other, 0.0) == list(range(at_a_time))
    assert uploads.unfinished() == {"ann": other}


def test_a_changed_header_of_the_same_body_goes_on(uploads: Uploads) -> None:
    uploads.ask("ann", OFFER, 0.0)
    uploads.add("ann", a_chunk(0), 0.0)
    again = replace(OFFER, metrics={"train_loss": 0.5})
    assert uploads.ask("ann", again, 0.0) == [1, 2, 3, 4]
    assert uploads.unfinished() == {"ann": again}


# In turn


def test_who_finds_no_room_waits_in_the_order_of_the_offers(uploads: Uploads) -> None:
    for node in ("ann", "bob"):
        assert uploads.ask(node, OFFER, 0.0)
    for node in ("dot", "cid", "eve", "cid"):
        assert uploads.ask(node, OFFER, 0.0) == []
    assert list(uploads.turns(always)) == []
    uploads.drop("ann")
    taken = []
    for node, offer in uploads.turns(always):
        taken.append(node)
        uploads.ask(node, offer, 0.0)
    assert taken == ["dot"]
    uploads.drop("cid")
    uploads.drop("bob")
    assert [node for node, _ in uploads.turns(always)] == ["eve"]


def test_an_offer_that_is_repeated_while_it_waits_keeps_one_place(uploads: Uploads) -> None:
    for node in ("ann", "bob", "cid", "cid"):
        uploads.ask(node, OFFER, 0.0)
    uploads.drop("ann")
    uploads.drop("bob")
    assert [node for node, _ in uploads.turns(always)] == ["cid"]


def test_who_has_its_turn_and_waits_again_is_behind_the_others(uploads: Uploads) -> None:
    for node in ("ann", "bob", "cid"):
        uploads.wait(node, OFFER)
    seen = []
    for node, offer in uploads.turns(always):
        seen.append(node)
        uploads.wait(node, offer)
    assert seen == ["ann", "bob", "cid"]
    assert list(uploads.unfinished()) == ["ann", "bob", "cid"]


def test_when_the_spool_is_full_nobody_has_a_turn_and_the_order_stays(uploads: Uploads) -> None:
    for node in ("ann", "bob", "cid"):
        uploads.wait(node, OFFER)
    assert list(uploads.turns(lambda node, _: node != "ann")) == []
    assert [node for node, _ in uploads.turns(lambda node, _: node != "cid")] == ["ann", "bob"]
    assert list(uploads.unfinished()) == ["cid"]


def test_who_waits_for_the_next_version_has_no_turn_before_it(uploads: Uploads) -> None:
    uploads.park("ann", OFFER)
    uploads.wait("bob", OFFER)
    uploads.park("cid", OFFER)
    uploads.drop("cid")
    assert [node for node, _ in uploads.turns(always)] == ["bob"]
    assert list(uploads.unfinished()) == ["ann"]
    uploads.unpark()
    assert [node for node, _ in uploads.turns(always)] == ["ann"]


def test_one_body_may_always_be_in_transfer_however_large_it_is() -> None:
    tight = Uploads(Limits(uploads_bytes=2**20))
    assert tight.ask("ann", OFFER, 0.0) == [0, 1, 2, 3]
    assert tight.ask("bob", OFFER, 0.0) == []


def test_the_bodies_in_transfer_are_those_of_the_others(uploads: Uploads) -> None:
    for node in ("ann", "bob", "cid"):
        uploads.ask(node, OFFER, 0.0)
    assert uploads.in_transfer(beside="ann") == (1, len(BODY))
    assert uploads.in_transfer(beside="cid") == (2, 2 * len(BODY))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ask", "other", "chunk", "drop", "wait", "expire"]),
            st.sampled_from("abcd"),
            st.integers(0, 3),
            st.sampled_from([0.0, 1.0, 6.0]),
        ),
        max_size=40,
    )
)
def test_what_is_kept_is_what_a_look_at_every_transfer_gives(
    story: list[tuple[str, str, int, float]],
) -> None:
    uploads, now = Uploads(Limits(uploads_bytes=2 * len(BODY), upload_idle_s=10.0)), 0.0
    for what, node, index, seconds in story:
        now += seconds
        match what:
            case "ask":
                uploads.ask(node, OFFER, now)
            case "other":
                uploads.ask(node, an_offer(2, body=BODY[: QUARTER * (index + 1)]), now)
            case "chunk":
                with suppress(PeerError):
                    uploads.add(node, a_chunk(index), now)
            case "drop":
                uploads.drop(node)
            case "wait":
                uploads.wait(node, OFFER)
        before = dict(uploads._uploads)
        over = {name for name, upload in before.items() if upload.idle_at <= now}
        assert uploads.expire(now) >= bool(over)
        assert uploads._uploads.keys() == before.keys() - over
        ends = [upload.idle_at for upload in uploads._uploads.values()]
        if uploads._waiting:
            ends += uploads._brisk.values()
        assert uploads.next_deadline() == min(ends, default=None)
        assert all(now < until <= now + BRISK_S for until in uploads._brisk.values())
        brisk = [uploads._uploads[name].offer.size for name in uploads._brisk]
        assert uploads._brisk_bytes == sum(brisk)
        sizes = [upload.offer.size for upload in uploads._uploads.values()]
        assert uploads.in_transfer(beside="nobody") == (len(sizes), sum(sizes))


# In haste


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> Uploads:
    monkeypatch.setattr("aggregator.uploads.BRISK_BYTES", BRISK_BYTES)
    return Uploads(Limits())


QUARTER_OFFER = an_offer(body=bytes(BRISK_BYTES // 4))


def test_of_those_asked_just_now_only_a_few_may_send(brisk: Uploads) -> None:
    for node in ("a", "b", "c", "d"):
        assert brisk.ask(node, QUARTER_OFFER, 1.0)
    assert brisk.ask("e", QUARTER_OFFER, 1.0) == []
    assert list(brisk.turns(always)) == []
    brisk.drop("b")
    assert [node for node, _ in brisk.turns(always)] == ["e"]


def test_a_slow_link_keeps_nobody_waiting(brisk: Uploads) -> None:
    for node in ("a", "b", "c", "d", "e"):
        brisk.ask(node, QUARTER_OFFER, 1.0)
    assert brisk.next_deadline() == 1.0 + BRISK_S
    assert not brisk.expire(1.0 + BRISK_S / 2)
    assert brisk.expire(1.0 + BRISK_S)
    assert [node for node, _ in brisk.turns(always)] == ["e"]


def test_one_body_is_asked_for_however_large_it_is(brisk: Uploads) -> None:
    large = an_offer(body=bytes(BRISK_BYTES + 1))
    assert brisk.ask("a", large, 1.0)
    assert brisk.ask("b", large, 1.0) == []
    assert brisk.ask("b", large, 1.0 + BRISK_S)


# In time


def test_a_transfer_that_stands_still_is_forgotten(uploads: Uploads) -> None:
    uploads.ask("ann", OFFER, 0.0)
    uploads.ask("bob", OFFER, 4.0)
    assert uploads.next_deadline() == 10.0
    assert not uploads.expire(9.9)
    uploads.add("ann", a_chunk(0), 9.0)
    assert uploads.next_deadline() == 14.0
    assert uploads.expire(14.0)
    assert uploads.unfinished() == {"ann": OFFER}
    assert uploads.add("bob", a_chunk(0), 14.0) is None
    assert uploads.expire(19.0)
    assert uploads.next_deadline() is None


def test_neither_an_offer_nor_a_chunk_that_is_here_keeps_a_transfer_alive(uploads: Uploads) -> None:
    """Else a node that brings nothing would hold its place for ever."""
    uploads.ask("ann", OFFER, 0.0)
    uploads.add("ann", a_chunk(0), 1.0)
    uploads.ask("ann", OFFER, 5.0)
    uploads.add("ann", a_chunk(0), 6.0)
    assert uploads.next_deadline() == 11.0


def test_who_waits_is_not_forgotten(uploads: Uploads) -> None:
    for node in ("ann", "bob", "cid"):
        uploads.ask(node, OFFER, 0.0)
    uploads.expire(1000.0)
    assert list(uploads.turns(always)) == [("cid", OFFER)]
