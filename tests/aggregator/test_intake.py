import hashlib
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from aggregator import intake as intake_module
from aggregator import release, rules
from aggregator.config import Limits
from aggregator.intake import Intake, Reply
from aggregator.release import Release
from shared import chunks
from shared.errors import PeerError
from shared.messages import Chunk, Offer, Receipt, Verdict
from shared.params import from_tensors

Update = Callable[..., tuple[Offer, bytes]]
MINE = "0123456789abcdef"
NAMES = ("ann", "bob", "cid", "dot")


@pytest.fixture
def intake(released: Release, limits: Limits) -> Intake:
    """A window in which four nodes are asked, and 30 bytes may be in transfer: two updates."""
    made = Intake(released, limits.model_copy(update={"uploads_bytes": 30}), "none", {})
    made.asked = set(NAMES)
    return made


def want(node: str, missing: bytes, counter: int = 5) -> Reply:
    """What a node is told that is to send chunks, or (b"") whose update is here."""
    return Reply(node, Receipt("want", MINE, counter, missing=missing))


def refusal(node: str, offer: Offer, reason: str) -> Reply:
    receipt = Receipt("settled", offer.state_id, offer.counter, version=None, reason=reason)
    return Reply(node, receipt, offer)


def parts(offer: Offer, body: bytes) -> list[Chunk]:
    count = chunks.count(offer.size, offer.chunk_bytes)
    return [
        chunks.cut(body, hashlib.sha256(body).digest(), offer.counter, index, offer.chunk_bytes)
        for index in range(count)
    ]


def send(intake: Intake, node: str, offer: Offer, body: bytes) -> list[Reply]:
    """Every chunk; gives what came back for the last one."""
    replies: list[Reply] = []
    for part in parts(offer, body):
        assert replies == []
        replies = intake.chunk(node, part)
    return replies


def expected_sum(intake: Intake, *updates: tuple[tuple[float, ...], int]) -> list[int]:
    total = rules.empty_sum(3, intake.sum.bits)
    for delta, weight in updates:
        rules.fold(total, np.array(delta, np.float32), weight, weight)
    return list(total.total.tolist())


# One update


def test_an_update_is_wanted_sent_checked_and_folded(intake: Intake, update: Update) -> None:
    offer, body = update()
    assert intake.offer("ann", offer) == [want("ann", b"\x07")]
    assert send(intake, "ann", offer, body) == [want("ann", b"")]
    assert intake.sum.total.tolist() == expected_sum(intake, ((1, -2, 0.5), 10))
    assert intake.sum.weight == 10
    assert [(one.node, one.offer) for one in intake.in_hand.values()] == [("ann", offer)]
    assert intake.settled == {}


def test_an_update_in_the_offer_itself_needs_no_chunks(intake: Intake, update: Update) -> None:
    offer, body = update()
    assert intake.offer("ann", replace(offer, body=body)) == [want("ann", b"")]
    assert intake.sum.total.tolist() == expected_sum(intake, ((1, -2, 0.5), 10))
    assert intake.in_hand["ann"].offer.body is None  # only the header stays


def test_a_broken_transfer_goes_on_where_it_stopped(intake: Intake, update: Update) -> None:
    offer, body = update()
    first, second, third = parts(offer, body)
    intake.offer("ann", offer)
    assert intake.chunk("ann", second) == []
    assert intake.offer("ann", offer) == [want("ann", b"\x05")]
    assert intake.chunk("ann", second) == []
    assert intake.chunk("ann", first) == []
    assert intake.offer("ann", offer) == [want("ann", b"\x04")]
    assert intake.chunk("ann", third) == [want("ann", b"")]


def test_a_body_that_is_cut_another_way_starts_anew(intake: Intake, update: Update) -> None:
    offer, body = update()
    intake.offer("ann", offer)
    intake.chunk("ann", parts(offer, body)[0])
    again = replace(offer, chunk_bytes=6)  # the broker's limit is another one now
    assert intake.offer("ann", again) == [want("ann", b"\x03")]
    assert send(intake, "ann", again, body) == [want("ann", b"")]


def test_the_next_update_of_a_node_takes_the_place_of_the_one_in_transfer(
    intake: Intake, update: Update
) -> None:
    old, body = update()
    intake.offer("ann", old)
    new, body = update((1, 1, 1), counter=6)
    assert intake.offer("ann", new) == [want("ann", b"\x07", counter=6)]
    assert intake.chunk("ann", parts(old, body)[0]) == []
    assert send(intake, "ann", new, body) == [want("ann", b"", counter=6)]
    assert intake.sum.total.tolist() == expected_sum(intake, ((1, 1, 1), 10))


def test_what_comes_twice_counts_once(intake: Intake, update: Update) -> None:
    offer, body = update()
    intake.offer("ann", offer)
    send(intake, "ann", offer, body)
    assert intake.chunk("ann", parts(offer, body)[2]) == []
    assert intake.offer("ann", offer) == [want("ann", b"")]
    assert intake.offer("ann", replace(offer, body=body)) == [want("ann", b"")]
    assert intake.sum.weight == 10


def test_an_update_that_comes_in_chunks_and_in_an_offer_counts_once(
    intake: Intake, update: Update
) -> None:
    offer, body = update()
    intake.offer("ann", offer)
    first, *others = parts(offer, body)
    intake.chunk("ann", first)
    assert intake.offer("ann", replace(offer, body=body)) == [want("ann", b"")]
    assert [intake.chunk("ann", part) for part in others] == [[], []]
    assert intake.sum.weight == 10


def test_a_chunk_without_an_offer_is_dropped(intake: Intake, update: Update) -> None:
    offer, body = update()
    assert intake.chunk("ann", parts(offer, body)[0]) == []
    intake.offer("ann", offer)
    assert intake.chunk("bob", parts(offer, body)[0]) == []
    assert intake.chunk("ann", replace(parts(offer, body)[0], of=4)) == []
    assert intake.offer("ann", offer) == [want("ann", b"\x07")]


def test_a_broken_chunk_is_told_and_wanted_again(intake: Intake, update: Update) -> None:
    offer, body = update()
    intake.offer("ann", offer)
    with pytest.raises(PeerError, match="does not match its digest"):
        intake.chunk("ann", replace(parts(offer, body)[0], data=bytes(5)))
    assert intake.offer("ann", offer) == [want("ann", b"\x07")]


# Refusals


def test_a_refused_offer_is_settled_and_told_the_same_ever_after(
    intake: Intake, update: Update
) -> None:
    offer, _ = update(samples=0)
    reason = "0 samples are not within 1..100"
    assert intake.offer("ann", offer) == [refusal("ann", offer, reason)]
    assert intake.settled == {"ann": Verdict(MINE, 5, None, reason)}
    better, _ = update()
    assert intake.offer("ann", better) == [replace(refusal("ann", offer, reason), refused=None)]


def test_who_was_not_asked_is_refused(intake: Intake, update: Update) -> None:
    offer, body = update()
    offer = replace(offer, body=body)
    assert intake.offer("eve", offer) == [refusal("eve", offer, "not asked in this round")]
    assert intake.sum.weight == 0


def test_a_finished_run_takes_nothing(intake: Intake, update: Update) -> None:
    intake.open = False
    offer, _ = update()
    assert intake.offer("ann", offer) == [refusal("ann", offer, "the run is over")]


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize(
    ("delta", "change", "reason"),
    [
        ((1, 1, 1), {"digest": bytes(32)}, "the body does not match its size or digest"),
        ((1, float("nan"), 1), {}, "the update holds NaN or infinity"),
        ((1, 17, 1), {}, "a parameter changes by 17, the limit is 16"),
    ],
)
def test_a_body_that_is_refused_leaves_no_trace_in_the_sum(
    intake: Intake,
    update: Update,
    delta: tuple[float, ...],
    change: dict[str, bytes],
    reason: str,
    *,
    inline: bool,
) -> None:
    offer, body = update(delta, **change)
    if inline:
        offer = replace(offer, body=body)
        replies = intake.offer("ann", offer)
    else:
        intake.offer("ann", offer)
        replies = send(intake, "ann", offer, body)
    assert replies == [refusal("ann", offer, reason)]
    assert intake.sum.total.tolist() == [0, 0, 0]
    assert intake.sum.weight == 0
    assert intake.in_hand == {}
    again, body = update(counter=6)  # the node may do better
    assert intake.offer("ann", replace(again, body=body)) == [want("ann", b"", counter=6)]


def test_an_inline_body_of_another_size_is_refused(intake: Intake, update: Update) -> None:
    offer, body = update()
    offer = replace(offer, body=body + bytes(4))
    (reply,) = intake.offer("ann", offer)
    assert reply.receipt.reason == "the body does not match its size or digest"


def test_a_second_update_in_the_same_window_is_refused_and_the_first_stays(
    intake: Intake, update: Update
) -> None:
    first, body = update()
    intake.offer("ann", replace(first, body=body))
    second, _ = update(counter=6)
    (reply,) = intake.offer("ann", second)
    assert reply.receipt.reason.startswith("one update per node and round")
    assert intake.in_hand["ann"].offer == first


# No more bytes than allowed


def test_an_offer_beyond_the_cap_waits_for_its_turn(intake: Intake, update: Update) -> None:
    offer, body = update()
    assert intake.offer("ann", offer) == [want("ann", b"\x07")]
    assert intake.offer("bob", offer) == [want("bob", b"\x07")]
    assert intake.offer("cid", offer) == []
    assert intake.offer("dot", offer) == []
    assert intake.offer("dot", offer) == []
    assert intake.chunk("cid", parts(offer, body)[0]) == []
    assert send(intake, "bob", offer, body) == [want("bob", b""), want("cid", b"\x07")]
    assert send(intake, "cid", offer, body) == [want("cid", b""), want("dot", b"\x07")]
    assert send(intake, "dot", offer, body) == [want("dot", b"")]
    assert send(intake, "ann", offer, body) == [want("ann", b"")]
    assert intake.sum.weight == 40


def test_a_refused_body_gives_way_as_well(intake: Intake, update: Update) -> None:
    bad, broken = update((17, 0, 0))
    intake.offer("ann", bad)
    offer, _ = update()
    intake.offer("bob", offer)
    intake.offer("cid", offer)
    refused, wanted = send(intake, "ann", bad, broken)
    assert refused.refused == bad
    assert wanted == want("cid", b"\x07")


def test_who_is_gone_gives_way(intake: Intake, update: Update) -> None:
    offer, body = update()
    for node in NAMES:
        intake.offer(node, offer)
    assert intake.drop("ann") == [want("cid", b"\x07")]
    assert intake.drop("dot") == []  # it was waiting only
    assert send(intake, "bob", offer, body) == [want("bob", b"")]
    assert intake.chunk("ann", parts(offer, body)[0]) == []


def test_one_update_may_always_be_in_transfer(
    released: Release, limits: Limits, update: Update
) -> None:
    tight = Intake(released, limits.model_copy(update={"uploads_bytes": 1}), "none", {})
    tight.asked = {"ann", "bob"}
    offer, body = update()
    assert tight.offer("ann", offer) == [want("ann", b"\x07")]
    assert tight.offer("bob", offer) == []
    assert send(tight, "ann", offer, body) == [want("ann", b""), want("bob", b"\x07")]


def test_an_inline_body_need_not_wait(intake: Intake, update: Update) -> None:
    offer, body = update()
    for node in ("ann", "bob", "cid"):
        intake.offer(node, offer)
    assert intake.offer("cid", replace(offer, body=body)) == [want("cid", b"")]
    assert send(intake, "ann", offer, body) == [want("ann", b"")]
    assert intake.sum.weight == 20


def test_who_waits_and_is_refused_in_the_end_does_not_hold_up_the_next(
    intake: Intake, update: Update
) -> None:
    offer, body = update()
    for node in NAMES:
        intake.offer(node, offer)
    intake.asked.discard("cid")
    finished, refused, wanted = send(intake, "ann", offer, body)
    assert finished == want("ann", b"")
    assert refused == refusal("cid", offer, "not asked in this round")
    assert wanted == want("dot", b"\x07")


def test_an_offer_alone_takes_no_memory_for_its_body(limits: Limits, update: Update) -> None:
    large = release.make(0, from_tensors({"w": np.zeros(1_000_000)}), {})
    intake = Intake(large, limits, "none", {})
    intake.asked = {"ann"}
    offer, _ = update(
        size=4_000_000,
        chunk_bytes=10_000,
        base_version=0,
        base=large.model,
        spec=large.spec_digest,
    )
    tracemalloc.start()
    (reply,) = intake.offer("ann", offer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reply.receipt.kind == "want"
    assert peak < 400_000


# The next version


def test_what_was_not_finished_is_late_on_the_next_version(
    intake: Intake, released: Release, update: Update
) -> None:
    offer, body = update()
    for node in NAMES:
        intake.offer(node, offer)
    send(intake, "bob", offer, body)
    following = release.make(4, from_tensors({"w": [0, 0], "b": 0}), {})
    late = {"ann", "cid", "dot"}
    reason = "late: version 4 is out"
    assert {reply.node: reply for reply in intake.renew(following)} == {
        node: refusal(node, offer, reason) for node in late
    }
    assert intake.settled == {node: Verdict(MINE, 5, None, reason) for node in late}
    assert (intake.in_hand, intake.asked, intake.sum.weight) == ({}, set(), 0)
    assert intake.sum.total.tolist() == [0, 0, 0]
    assert intake.chunk("ann", parts(offer, body)[0]) == []
    assert intake.drop("cid") == []  # nobody waits any more
    intake.asked = {"ann"}
    new, _ = update(counter=6, base_version=4, base=following.model)
    assert intake.offer("ann", new) == [want("ann", b"\x07", counter=6)]
    stale, _ = update(counter=7)
    (reply,) = intake.offer("ann", stale)
    assert reply.receipt.reason == f"stale: trained on version {released.version}, now at 4"


# What is remembered of those who were settled


def test_a_counted_update_is_told_its_version_again(intake: Intake, update: Update) -> None:
    intake.settle("ann", Verdict(MINE, 5, 3, ""))
    offer, _ = update()
    receipt = Receipt("settled", MINE, 5, version=3)
    assert intake.offer("ann", offer) == [Reply("ann", receipt)]


def test_a_successor_knows_who_was_settled(
    released: Release, limits: Limits, update: Update
) -> None:
    intake = Intake(released, limits, "none", {"ann": Verdict(MINE, 6, 3, "")})
    intake.asked = {"ann"}
    (reply,) = intake.offer("ann", update(counter=6)[0])
    assert (reply.receipt.kind, reply.receipt.version) == ("settled", 3)


def test_the_memory_of_the_settled_is_bounded_and_forgets_the_oldest(
    intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_module, "MAX_NODES", 3)
    for counter, node in enumerate(["ann", "bob", "cid", "ann", "dot", "eve"]):
        intake.settle(node, Verdict(MINE, counter, 3, ""))
    assert [(node, one.counter) for node, one in intake.settled.items()] == [
        ("ann", 3),
        ("dot", 4),
        ("eve", 5),
    ]
