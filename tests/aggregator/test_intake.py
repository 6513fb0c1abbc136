import hashlib
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from deltas import opened

from aggregator import intake as intake_module
from aggregator import release, rules
from aggregator.config import Config, Limits, Rounds, Staleness
from aggregator.events import Kept
from aggregator.intake import Answer, Intake, Reply
from aggregator.release import Release
from aggregator.uploads import BRISK_S
from shared import chunks
from shared.errors import PeerError
from shared.messages import Chunk, Offer, Receipt, Verdict
from shared.params import Params, from_tensors

Update = Callable[..., tuple[Offer, bytes]]
MINE = "0123456789abcdef"
NAMES = ("ann", "bob", "cid", "dot")


@pytest.fixture
def intake(released: Release, limits: Limits) -> Intake:
    """A window in which four nodes are asked, and 30 bytes may be in transfer: two updates."""
    made = begun(released, limits, uploads_bytes=30)
    made.asked = set(NAMES)
    return made


def begun(
    released: Release,
    limits: Limits,
    settled: Mapping[str, Verdict] | None = None,
    *,
    rounds: Rounds | None = None,
    staleness: Staleness | None = None,
    durability: Literal["none", "process"] = "process",
    bases: Mapping[int, Params] | None = None,
    **changes: float,
) -> Intake:
    """An intake with some limits changed; `bases` are earlier versions."""
    config = Config(
        rounds=rounds or Rounds(),
        staleness=staleness or Staleness(),
        durability=durability,
        limits=limits.model_copy(update=changes),
    )
    earlier = bases or {}
    return Intake(
        released,
        config,
        settled or {},
        {version: params.digest for version, params in earlier.items()},
        {version: params.flat for version, params in earlier.items()},
    )


def told(intake: Intake, answers: list[Answer]) -> list[Reply]:
    """What the nodes are told when the disk takes at once what it is given."""
    replies = [one for one in answers if isinstance(one, Reply)]
    return intake.spooled() + replies


def offered(intake: Intake, node: str, offer: Offer, now: float = 0.0) -> list[Reply]:
    return told(intake, intake.offer(node, offer, now))


def came(intake: Intake, node: str, chunk: Chunk, now: float = 0.0) -> list[Reply]:
    return told(intake, intake.chunk(node, chunk, now))


def stored(node: str, counter: int = 5) -> Reply:
    """What a node is told whose update is on disk."""
    return Reply(node, Receipt("stored", MINE, counter))


def want(node: str, missing: bytes, counter: int = 5) -> Reply:
    """What a node is told that is to send chunks."""
    return Reply(node, Receipt("want", MINE, counter, missing=missing))


def refusal(node: str, offer: Offer, reason: str) -> Reply:
    receipt = Receipt("settled", offer.state_id, offer.counter, version=None, reason=reason)
    return Reply(node, receipt, replace(offer, body=None))  # a body is not kept for it


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
        replies = came(intake, node, part)
    return replies


def total(intake: Intake) -> rules.Sum:
    assert isinstance(intake.sum, rules.Sum)
    return intake.sum


def expected_sum(intake: Intake, *updates: tuple[tuple[float, ...], int]) -> list[int]:
    made = rules.empty_sum(3, total(intake).bits)
    for delta, weight in updates:
        rules.fold(made, opened(delta), weight, weight)
    return list(made.total.tolist())


# One update


def test_an_update_is_wanted_sent_checked_and_folded(intake: Intake, update: Update) -> None:
    offer, body = update()
    assert offered(intake, "ann", offer) == [want("ann", b"\x07")]
    assert send(intake, "ann", offer, body) == [stored("ann")]
    assert total(intake).total.tolist() == expected_sum(intake, ((1, -2, 0.5), 10))
    assert total(intake).weight == 10
    assert [(one.node, one.offer) for one in intake.in_hand.values()] == [("ann", offer)]
    assert intake.settled == {}


def test_an_update_in_the_offer_itself_needs_no_chunks(intake: Intake, update: Update) -> None:
    offer, body = update()
    assert offered(intake, "ann", replace(offer, body=body)) == [stored("ann")]
    assert total(intake).total.tolist() == expected_sum(intake, ((1, -2, 0.5), 10))
    assert intake.in_hand["ann"].offer.body is None  # only the header stays


def test_a_broken_transfer_goes_on_where_it_stopped(intake: Intake, update: Update) -> None:
    offer, body = update()
    first, second, third = parts(offer, body)
    offered(intake, "ann", offer)
    assert came(intake, "ann", second) == []
    assert offered(intake, "ann", offer) == [want("ann", b"\x05")]
    assert came(intake, "ann", second) == []
    assert came(intake, "ann", first) == []
    assert offered(intake, "ann", offer) == [want("ann", b"\x04")]
    assert came(intake, "ann", third) == [stored("ann")]


def test_a_body_that_is_cut_another_way_starts_anew(intake: Intake, update: Update) -> None:
    offer, body = update()
    offered(intake, "ann", offer)
    came(intake, "ann", parts(offer, body)[0])
    again = replace(offer, chunk_bytes=6)  # the broker's limit is another one now
    assert offered(intake, "ann", again) == [want("ann", b"\x03")]
    assert send(intake, "ann", again, body) == [stored("ann")]


def test_the_next_update_of_a_node_takes_the_place_of_the_one_in_transfer(
    intake: Intake, update: Update
) -> None:
    old, body = update()
    offered(intake, "ann", old)
    new, body = update((1, 1, 1), counter=6)
    assert offered(intake, "ann", new) == [want("ann", b"\x07", counter=6)]
    assert came(intake, "ann", parts(old, body)[0]) == []
    assert send(intake, "ann", new, body) == [stored("ann", counter=6)]
    assert total(intake).total.tolist() == expected_sum(intake, ((1, 1, 1), 10))


def test_what_comes_twice_counts_once(intake: Intake, update: Update) -> None:
    offer, body = update()
    offered(intake, "ann", offer)
    send(intake, "ann", offer, body)
    assert came(intake, "ann", parts(offer, body)[2]) == []
    assert offered(intake, "ann", offer) == [stored("ann")]
    assert offered(intake, "ann", replace(offer, body=body)) == [stored("ann")]
    assert total(intake).weight == 10


def test_an_update_that_comes_in_chunks_and_in_an_offer_counts_once(
    intake: Intake, update: Update
) -> None:
    offer, body = update()
    offered(intake, "ann", offer)
    first, *others = parts(offer, body)
    came(intake, "ann", first)
    assert offered(intake, "ann", replace(offer, body=body)) == [stored("ann")]
    assert [came(intake, "ann", part) for part in others] == [[], []]
    assert total(intake).weight == 10


def test_a_chunk_without_an_offer_is_dropped(intake: Intake, update: Update) -> None:
    offer, body = update()
    assert came(intake, "ann", parts(offer, body)[0]) == []
    offered(intake, "ann", offer)
    assert came(intake, "bob", parts(offer, body)[0]) == []
    assert came(intake, "ann", replace(parts(offer, body)[0], of=4)) == []
    assert offered(intake, "ann", offer) == [want("ann", b"\x07")]


def test_a_broken_chunk_is_told_and_wanted_again(intake: Intake, update: Update) -> None:
    offer, body = update()
    offered(intake, "ann", offer)
    with pytest.raises(PeerError, match="does not match its digest"):
        came(intake, "ann", replace(parts(offer, body)[0], data=bytes(5)))
    assert offered(intake, "ann", offer) == [want("ann", b"\x07")]


# Refusals


def test_a_refused_offer_is_settled_and_told_the_same_ever_after(
    intake: Intake, update: Update
) -> None:
    offer, _ = update(samples=0)
    reason = "0 samples are not within 1..100"
    assert offered(intake, "ann", offer) == [refusal("ann", offer, reason)]
    assert intake.settled == {"ann": Verdict(MINE, 5, None, reason)}
    better, _ = update()
    assert offered(intake, "ann", better) == [replace(refusal("ann", offer, reason), refused=None)]


def test_who_was_not_asked_is_refused(intake: Intake, update: Update) -> None:
    offer, body = update()
    offer = replace(offer, body=body)
    assert offered(intake, "eve", offer) == [refusal("eve", offer, "not asked in this round")]
    assert total(intake).weight == 0


def test_a_finished_run_takes_nothing(intake: Intake, update: Update) -> None:
    intake.open = False
    offer, _ = update()
    assert offered(intake, "ann", offer) == [refusal("ann", offer, "the run is over")]


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
        replies = offered(intake, "ann", offer)
    else:
        offered(intake, "ann", offer)
        replies = send(intake, "ann", offer, body)
    assert replies == [refusal("ann", offer, reason)]
    assert total(intake).total.tolist() == [0, 0, 0]
    assert total(intake).weight == 0
    assert intake.in_hand == {}
    again, body = update(counter=6)  # the node may do better
    assert offered(intake, "ann", replace(again, body=body)) == [stored("ann", counter=6)]


def test_an_inline_body_of_another_size_is_refused(intake: Intake, update: Update) -> None:
    offer, body = update()
    offer = replace(offer, body=body + bytes(4))
    (reply,) = offered(intake, "ann", offer)
    assert reply.receipt.reason == "the body does not match its size or digest"


def test_a_second_update_of_a_node_waits_until_the_version_is_out(
    intake: Intake, update: Update, released: Release
) -> None:
    first, body = update()
    offered(intake, "ann", replace(first, body=body))
    second, _ = update(counter=6)
    assert offered(intake, "ann", second) == []
    assert intake.in_hand["ann"].offer == first
    intake.count(4)
    (kept,) = intake.renew(release.make(4, released.params), 0.0)
    assert isinstance(kept, Kept)
    assert kept.offer == second
    assert kept.reason == "late: version 4 is out"


# No more bytes than allowed


def test_an_offer_beyond_the_cap_waits_for_its_turn(intake: Intake, update: Update) -> None:
    offer, body = update()
    assert offered(intake, "ann", offer) == [want("ann", b"\x07")]
    assert offered(intake, "bob", offer) == [want("bob", b"\x07")]
    assert offered(intake, "cid", offer) == []
    assert offered(intake, "dot", offer) == []
    assert offered(intake, "dot", offer) == []
    assert came(intake, "cid", parts(offer, body)[0]) == []
    assert send(intake, "bob", offer, body) == [stored("bob"), want("cid", b"\x07")]
    assert send(intake, "cid", offer, body) == [stored("cid"), want("dot", b"\x07")]
    assert send(intake, "dot", offer, body) == [stored("dot")]
    assert send(intake, "ann", offer, body) == [stored("ann")]
    assert total(intake).weight == 40


def test_a_refused_body_gives_way_as_well(intake: Intake, update: Update) -> None:
    bad, broken = update((17, 0, 0))
    offered(intake, "ann", bad)
    offer, _ = update()
    offered(intake, "bob", offer)
    offered(intake, "cid", offer)
    refused, wanted = send(intake, "ann", bad, broken)
    assert refused.refused == bad
    assert wanted == want("cid", b"\x07")


def test_who_is_gone_gives_way(intake: Intake, update: Update) -> None:
    offer, body = update()
    for node in NAMES:
        offered(intake, node, offer)
    assert told(intake, intake.drop("ann", 0.0)) == [want("cid", b"\x07")]
    assert told(intake, intake.drop("dot", 0.0)) == []  # it was waiting only
    assert send(intake, "bob", offer, body) == [stored("bob")]
    assert came(intake, "ann", parts(offer, body)[0]) == []


def test_one_update_may_always_be_in_transfer(
    released: Release, limits: Limits, update: Update
) -> None:
    tight = begun(released, limits, uploads_bytes=1)
    tight.asked = {"ann", "bob"}
    offer, body = update()
    assert offered(tight, "ann", offer) == [want("ann", b"\x07")]
    assert offered(tight, "bob", offer) == []
    assert send(tight, "ann", offer, body) == [stored("ann"), want("bob", b"\x07")]


def test_an_inline_body_need_not_wait(intake: Intake, update: Update) -> None:
    offer, body = update()
    for node in ("ann", "bob", "cid"):
        offered(intake, node, offer)
    assert offered(intake, "cid", replace(offer, body=body)) == [stored("cid")]
    assert send(intake, "ann", offer, body) == [stored("ann")]
    assert total(intake).weight == 20


def test_who_waits_and_is_refused_in_the_end_does_not_hold_up_the_next(
    intake: Intake, update: Update
) -> None:
    offer, body = update()
    for node in NAMES:
        offered(intake, node, offer)
    intake.asked.discard("cid")
    finished, refused, wanted = send(intake, "ann", offer, body)
    assert finished == stored("ann")
    assert refused == refusal("cid", offer, "not asked in this round")
    assert wanted == want("dot", b"\x07")


def test_an_offer_alone_takes_no_memory_for_its_body(limits: Limits, update: Update) -> None:
    large = release.make(0, from_tensors({"w": np.zeros(1_000_000)}))
    intake = begun(large, limits)
    intake.asked = {"ann"}
    offer, _ = update(
        size=4_000_000,
        chunk_bytes=10_000,
        base_version=0,
        base=large.model,
        spec=large.spec_digest,
    )
    tracemalloc.start()
    (reply,) = offered(intake, "ann", offer)
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
        offered(intake, node, offer)
    send(intake, "bob", offer, body)
    following = release.make(4, from_tensors({"w": [0, 0], "b": 0}))
    late = {"ann", "cid", "dot"}
    reason = "late: version 4 is out"
    assert {reply.node: reply for reply in told(intake, intake.renew(following, 0.0))} == {
        node: refusal(node, offer, reason) for node in late
    }
    assert intake.settled == {node: Verdict(MINE, 5, None, reason) for node in late}
    assert (intake.in_hand, intake.asked, total(intake).weight) == ({}, set(), 0)
    assert total(intake).total.tolist() == [0, 0, 0]
    assert came(intake, "ann", parts(offer, body)[0]) == []
    assert told(intake, intake.drop("cid", 0.0)) == []  # nobody waits any more
    intake.asked = {"ann"}
    new, _ = update(counter=6, base_version=4, base=following.model)
    assert offered(intake, "ann", new) == [want("ann", b"\x07", counter=6)]
    stale, _ = update(counter=7)
    (reply,) = offered(intake, "ann", stale)
    assert reply.receipt.reason == f"stale: trained on version {released.version}, now at 4"


# What is remembered of those who were settled


def test_a_counted_update_is_told_its_version_again(intake: Intake, update: Update) -> None:
    intake.settle("ann", Verdict(MINE, 5, 3, ""))
    offer, _ = update()
    receipt = Receipt("settled", MINE, 5, version=3)
    assert offered(intake, "ann", offer) == [Reply("ann", receipt)]


def test_a_successor_knows_who_was_settled(
    released: Release, limits: Limits, update: Update
) -> None:
    intake = begun(released, limits, {"ann": Verdict(MINE, 6, 3, "")})
    intake.asked = {"ann"}
    (reply,) = offered(intake, "ann", update(counter=6)[0])
    assert (reply.receipt.kind, reply.receipt.version) == ("settled", 3)


@pytest.mark.parametrize("mode", ["synchronous", "buffered"])
def test_who_has_the_model_alone_takes_nothing_that_was_counted_in_it(
    released: Release, limits: Limits, update: Update, mode: Literal["synchronous", "buffered"]
) -> None:
    intake = begun(released, limits, rounds=Rounds(mode=mode))
    intake.asked = {"ann"}
    (reply,) = offered(intake, "ann", update(**on(2))[0])
    assert (reply.receipt.kind, reply.receipt.version) == ("settled", None)
    assert reply.receipt.reason == "stale: trained on version 2, now at 3"


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


# On disk first


def test_nothing_is_told_or_folded_before_it_is_on_disk(intake: Intake, update: Update) -> None:
    offer, body = update()
    assert intake.offer("ann", replace(offer, body=body), 0.0) == [Kept("ann", offer, body)]
    wrong, _ = update(samples=0)
    reason = "0 samples are not within 1..100"
    assert intake.offer("bob", wrong, 0.0) == [Kept("bob", wrong, None, reason)]
    assert intake.pending
    assert (intake.in_hand, intake.settled, total(intake).weight) == ({}, {}, 0)
    assert intake.spooled() == [stored("ann"), refusal("bob", wrong, reason)]
    assert not intake.pending
    assert intake.spooled() == []
    assert (list(intake.in_hand), list(intake.settled), total(intake).weight) == (
        ["ann"],
        ["bob"],
        10,
    )


def test_who_offers_again_while_the_disk_writes_is_answered_after_that(
    intake: Intake, update: Update
) -> None:
    offer, body = update()
    intake.offer("ann", replace(offer, body=body), 0.0)
    assert intake.offer("ann", replace(offer, body=body), 0.0) == []
    assert intake.spooled() == [stored("ann")]
    assert offered(intake, "ann", offer) == [stored("ann")]
    assert total(intake).weight == 10


def test_without_a_spool_a_node_is_told_that_all_is_here_and_not_that_it_is_on_disk(
    released: Release, limits: Limits, update: Update
) -> None:
    careless = begun(released, limits, durability="none")
    careless.asked = {"ann"}
    offer, body = update()
    assert offered(careless, "ann", replace(offer, body=body)) == [want("ann", b"")]
    assert offered(careless, "ann", offer) == [want("ann", b"")]


def test_a_transfer_that_stands_still_gives_its_turn_away(intake: Intake, update: Update) -> None:
    offer, body = update()
    for node in ("ann", "bob", "cid"):
        offered(intake, node, offer)
    assert intake.next_deadline() == BRISK_S
    assert told(intake, intake.expire(BRISK_S)) == []
    assert intake.next_deadline() == 300.0
    assert came(intake, "bob", parts(offer, body)[0], now=100.0) == []
    assert told(intake, intake.expire(299.0)) == []
    assert told(intake, intake.expire(300.0)) == [want("cid", b"\x07")]
    assert intake.next_deadline() == 400.0  # of bob, who is not waited for
    assert came(intake, "ann", parts(offer, body)[0], now=300.0) == []
    assert offered(intake, "ann", offer, now=300.0) == []  # it waits now, as the third
    assert send(intake, "cid", offer, body) == [stored("cid"), want("ann", b"\x07")]


# No more updates than the sum and the disk can take


def test_beyond_the_room_in_the_spool_offers_wait_for_the_next_version(
    released: Release, limits: Limits, update: Update
) -> None:
    rounds = Rounds(mode="buffered", max_staleness=1)
    tight = begun(released, limits, rounds=rounds, spool_bytes=24)
    offer, body = update()
    for node in ("ann", "bob"):
        assert offered(tight, node, replace(offer, body=body)) == [stored(node)]
    assert offered(tight, "cid", replace(offer, body=body)) == []
    assert offered(tight, "dot", offer) == []
    assert offered(tight, "ann", offer) == [stored("ann")]  # what is there is told all the same
    assert total(tight).weight == 20 * rules.STEPS
    tight.count(4)
    following = release.make(4, from_tensors({"w": [0, 0], "b": 0}))
    replies = told(tight, tight.renew(following, 0.0))
    # What rode in the offer of cid was not kept meanwhile.
    assert replies == [want("cid", b"\x07"), want("dot", b"\x07")]
    assert send(tight, "cid", offer, body) == [stored("cid")]
    assert list(tight.in_hand) == ["cid"]


@pytest.mark.parametrize("limit", [{"max_nodes": 2}, {"spool_bytes": 24}])
def test_bodies_on_their_way_are_counted_before_more_are_asked_for(
    released: Release, limits: Limits, update: Update, limit: dict[str, Any]
) -> None:
    """Else they would come to more than the grid of the sum, or the disk, is made for."""
    tight = begun(released, limits, **limit)
    tight.asked = set(NAMES)
    offer, body = update()
    assert offered(tight, "ann", offer) == [want("ann", b"\x07")]
    assert offered(tight, "bob", offer) == [want("bob", b"\x07")]
    assert offered(tight, "cid", offer) == []
    assert offered(tight, "bob", offer) == [want("bob", b"\x07")]  # its own has a place
    assert send(tight, "ann", offer, body) == [stored("ann")]
    assert told(tight, tight.drop("bob", 0.0)) == [want("cid", b"\x07")]
    assert send(tight, "cid", offer, body) == [stored("cid")]
    assert offered(tight, "dot", replace(offer, body=body)) == []
    assert len(tight.in_hand) == 2


def test_too_many_refusals_are_told_but_not_remembered(
    intake: Intake, update: Update, monkeypatch: pytest.MonkeyPatch, released: Release
) -> None:
    monkeypatch.setattr(intake_module, "MOST_REFUSALS", 2)
    offers = [update(samples=0, counter=counter)[0] for counter in range(4)]
    kinds = [offered(intake, "ann", offer)[0].receipt.kind for offer in offers]
    assert kinds == ["settled", "settled", "unreadable", "unreadable"]
    assert intake.settled["ann"].counter == 1
    assert not intake.pending
    intake.renew(released, 0.0)
    assert offered(intake, "ann", offers[3])[0].receipt.kind == "settled"


# What the spool kept over a restart


def kept(update: Update, node: str = "ann", reason: str = "", **changes: Any) -> Kept:  # noqa: ANN401
    offer, body = update(**changes)
    return Kept(node, offer, None if reason else body, reason)


def test_what_the_spool_kept_is_taken_as_it_was_taken_before(
    intake: Intake, released: Release, limits: Limits, update: Update
) -> None:
    first, second = kept(update, "bob", counter=9), kept(update, "ann", delta=(1, 1, 1), samples=3)
    late = kept(update, "cid", "the reason that was told")
    for one in (first, second):
        offered(intake, one.node, replace(one.offer, body=bytes(one.body or b"")))
    again = begun(released, limits)
    for one in (first, second, late):
        again.recover(one)
    assert total(again).total.tolist() == total(intake).total.tolist()
    assert total(again).weight == total(intake).weight
    assert again.counted() == intake.counted()
    assert not again.pending
    assert offered(again, "bob", first.offer) == [stored("bob", counter=9)]
    told_again = replace(refusal("cid", late.offer, late.reason), refused=None)
    assert offered(again, "cid", late.offer) == [told_again]


def test_an_update_that_the_spool_kept_twice_counts_once(intake: Intake, update: Update) -> None:
    intake.recover(kept(update))
    intake.recover(kept(update))
    intake.recover(kept(update, delta=(1, 1, 1), counter=6))
    assert total(intake).weight == 10
    assert intake.in_hand["ann"].offer.counter == 5


@pytest.mark.parametrize(
    ("changes", "limit", "reason"),
    [
        ({"base": bytes(32)}, {}, "this aggregator lost the version it was trained on"),
        ({"base_version": 2}, {}, "this aggregator lost the version it was trained on"),
        (
            {"delta": (9, 0, 0)},
            {"max_abs_delta": 8.0},
            "a parameter changes by 9, the limit is 8",
        ),
        ({"samples": 51}, {"max_samples": 50}, "51 samples are not within 1..50"),
    ],
)
def test_what_does_not_fit_other_settings_is_refused(
    released: Release,
    limits: Limits,
    update: Update,
    changes: dict[str, Any],
    limit: dict[str, Any],
    reason: str,
) -> None:
    again = begun(released, limits, **limit)
    found = kept(update, **changes)
    again.recover(found)
    assert (again.in_hand, total(again).weight) == ({}, 0)
    told_now = replace(refusal("ann", found.offer, reason), refused=None)
    assert offered(again, "ann", found.offer) == [told_now]


def test_more_than_fit_a_smaller_federation_are_refused(
    released: Release, limits: Limits, update: Update
) -> None:
    again = begun(released, limits, max_nodes=2)
    for node in NAMES:
        again.recover(kept(update, node))
    assert list(again.in_hand) == ["ann", "bob"]
    assert {node: one.version for node, one in again.settled.items()} == {"cid": None, "dot": None}


# Anybody may train


EARLIER = {
    1: from_tensors({"w": [5, 5], "b": 5}),
    2: from_tensors({"w": [1, 0], "b": -1}),
}


def on(version: int) -> dict[str, Any]:
    """The fields of an update that was trained on an earlier version."""
    return {"base_version": version, "base": EARLIER[version].digest}


def test_nobody_need_be_asked_and_a_stale_update_weighs_less(
    released: Release, limits: Limits, update: Update
) -> None:
    rounds = Rounds(mode="buffered", max_staleness=1)
    intake = begun(released, limits, rounds=rounds, bases=EARLIER)
    assert list(intake.bases) == [2, 3]
    fresh, fresh_body = update()
    stale, stale_body = update((8, 8, 8), **on(2))
    assert offered(intake, "bob", replace(stale, body=stale_body)) == [stored("bob")]
    assert offered(intake, "ann", replace(fresh, body=fresh_body)) == [stored("ann")]
    assert [(one.node, one.staleness, one.weight) for one in intake.counted()] == [
        ("ann", 0, 10),
        ("bob", 1, 10 * 45 / 64),
    ]
    expected = (np.array([1, -2, 0.5]) * 64 + np.full(3, 8.0) * 45) / 128
    np.testing.assert_allclose(rules.mean(total(intake)), expected, rtol=0, atol=1e-6)


def test_beyond_the_largest_staleness_an_update_is_refused(
    released: Release, limits: Limits, update: Update
) -> None:
    rounds = Rounds(mode="buffered", max_staleness=1)
    intake = begun(released, limits, rounds=rounds, bases=EARLIER)
    offer, _ = update(**on(1))
    reason = "stale: trained on version 1, now at 3"
    assert offered(intake, "ann", offer) == [refusal("ann", offer, reason)]


def test_a_version_that_was_not_saved_is_no_base_where_its_parameters_are_needed(
    released: Release, limits: Limits
) -> None:
    config = Config(rounds=Rounds(mode="asynchronous"), limits=limits)
    digests = {version: params.digest for version, params in EARLIER.items()}
    intake = Intake(released, config, {}, digests, {2: EARLIER[2].flat})
    assert list(intake.bases) == [2, 3]


def test_an_unfinished_upload_that_is_fresh_enough_goes_on_over_the_next_version(
    released: Release, limits: Limits, update: Update
) -> None:
    rounds = Rounds(mode="buffered", max_staleness=1)
    intake = begun(released, limits, rounds=rounds, bases=EARLIER)
    offer, body = update()
    stale, _ = update(**on(2))
    first, *others = parts(offer, body)
    offered(intake, "ann", offer)
    offered(intake, "bob", stale)
    came(intake, "ann", first)
    following = release.make(4, from_tensors({"w": [0, 0], "b": 0}))
    late = refusal("bob", stale, "late: version 4 is out")
    assert told(intake, intake.renew(following, 0.0)) == [late]
    assert [came(intake, "ann", part) for part in others] == [[], [stored("ann")]]
    assert (intake.in_hand["ann"].staleness, intake.in_hand["ann"].weight) == (1, 10 * 45 / 64)


def test_asynchronous_mixes_every_update_in_the_order_in_which_it_came(
    released: Release, limits: Limits, update: Update
) -> None:
    def mixed(order: str) -> tuple[list[str], list[float]]:
        intake = begun(released, limits, rounds=Rounds(mode="asynchronous"), bases=EARLIER)
        for node in order:
            offer, body = update((4, 4, 4), **on(2)) if node == "b" else update()
            offered(intake, node, replace(offer, body=body))
        assert isinstance(intake.sum, rules.Mix)
        return [one.node for one in intake.counted()], intake.sum.model.tolist()

    start = released.params.flat.astype(np.float64)
    after_a = start + 0.6 * np.array([1, -2, 0.5])
    after_b = after_a + 0.6 * 45 / 64 * (EARLIER[2].flat + 4.0 - after_a)
    order, model = mixed("ab")
    assert order == ["a", "b"]
    np.testing.assert_allclose(model, after_b, rtol=1e-15)
    other, turned = mixed("ba")
    assert other == ["b", "a"]
    assert turned != model
