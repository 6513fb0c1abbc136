import hashlib
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aggregator.admission import (
    InHand,
    Later,
    Rejected,
    Settled,
    Standing,
    Welcome,
    check,
    judge,
)
from aggregator.config import Limits
from aggregator.release import Release
from shared.compression import named, unpacked
from shared.errors import PeerError
from shared.messages import MAX_CHUNKS, Offer, Verdict

Update = Callable[..., tuple[Offer, bytes]]
MINE, OTHER = "0123456789abcdef", "f" * 16
COUNTED = Verdict(MINE, 5, 4, "")


@pytest.fixture
def standing(released: Release) -> Standing:
    """The window on version 3, in which ann was asked; nothing of hers is known."""
    return Standing(
        open=True,
        version=released.version,
        bases={released.version: released.model},
        spec=released.params.spec,
        spec_digest=released.spec_digest,
        compression="none",
        asked={"ann", "bob"},
        settled=None,
        in_hand=None,
    )


# The offer's header, rule by rule


def test_an_offer_that_breaks_no_rule_is_welcome(
    update: Update, standing: Standing, limits: Limits
) -> None:
    assert judge("ann", update()[0], standing, limits) == Welcome()


def test_a1_the_update_settled_last_is_told_the_same_verdict(
    update: Update, standing: Standing, limits: Limits
) -> None:
    known = replace(standing, settled=COUNTED)
    assert judge("ann", update(counter=5)[0], known, limits) == Settled(COUNTED)


def test_a1_an_update_before_the_last_was_settled_too(
    update: Update, standing: Standing, limits: Limits
) -> None:
    known = replace(standing, settled=COUNTED)
    earlier = Settled(Verdict(MINE, 4, None, "settled earlier"))
    assert judge("ann", update(counter=4)[0], known, limits) == earlier


@pytest.mark.parametrize(("counter", "state_id"), [(6, MINE), (5, OTHER), (1, OTHER)])
def test_a1_a_later_update_or_one_of_a_new_state_directory_is_not_settled(
    update: Update, standing: Standing, limits: Limits, counter: int, state_id: str
) -> None:
    offer, _ = update(counter=counter, state_id=state_id)
    assert judge("ann", offer, replace(standing, settled=COUNTED), limits) == Welcome()


def test_a2_an_update_in_the_window_need_not_be_sent_again(
    update: Update, standing: Standing, limits: Limits
) -> None:
    assert judge("ann", update()[0], replace(standing, in_hand=(MINE, 5)), limits) == InHand()


REFUSALS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("A3", {}, {"open": False}, "the run is over"),
    ("A4", {"base_version": 2}, {}, "stale: trained on version 2, now at 3"),
    ("A5", {"base": bytes(32)}, {}, "foreign base: this aggregator does not hold the version"),
    ("A7", {}, {"asked": ()}, "not asked in this round"),
    ("A8", {"spec": bytes(32)}, {}, "wrong shapes"),
    ("A9", {"compression": "fp16"}, {}, "the plan asks for compression none"),
    ("A10", {"size": 13}, {}, "13 bytes in chunks of 5 do not fit the model"),
    ("A11", {"samples": 0}, {}, "0 samples are not within 1..100"),
]
"""Rule, what is wrong with the offer, how the aggregator stands, what the node is told; in the
order of the rules."""


@pytest.mark.parametrize(("rule", "wrong", "stands", "says"), REFUSALS)
def test_an_offer_that_breaks_one_rule_is_refused_with_its_reason(
    update: Update,
    standing: Standing,
    limits: Limits,
    rule: str,
    wrong: dict[str, Any],
    stands: dict[str, Any],
    says: str,
) -> None:
    judgement = judge("ann", update(**wrong)[0], replace(standing, **stands), limits)
    assert isinstance(judgement, Rejected), rule
    assert judgement.reason.startswith(says)


@pytest.mark.parametrize("first", range(len(REFUSALS)))
def test_of_several_broken_rules_the_first_is_told(
    update: Update, standing: Standing, limits: Limits, first: int
) -> None:
    offer, _ = update()
    for _, wrong, stands, _ in REFUSALS[first:]:
        offer, standing = replace(offer, **wrong), replace(standing, **stands)
    judgement = judge("ann", offer, standing, limits)
    assert isinstance(judgement, Rejected)
    assert judgement.reason.startswith(REFUSALS[first][3])
    known = replace(standing, in_hand=(MINE, 5))
    assert judge("ann", offer, known, limits) == InHand()
    assert judge("ann", offer, replace(known, settled=COUNTED), limits) == Settled(COUNTED)


def test_a5_a_version_still_to_come_is_foreign(
    update: Update, standing: Standing, limits: Limits
) -> None:
    judgement = judge("ann", update(base_version=4)[0], standing, limits)
    assert isinstance(judgement, Rejected)
    assert judgement.reason.startswith("foreign base")


@pytest.mark.parametrize(
    ("version", "base", "reason"),
    [
        (0, 0, "stale: trained on version 0, now at 3"),
        (1, 1, ""),
        (2, 2, ""),
        (2, 1, "foreign base: this aggregator does not hold the version it was trained on"),
        (4, 4, "foreign base: this aggregator does not hold the version it was trained on"),
    ],
)
def test_a4_a5_earlier_versions_are_good_as_long_as_they_are_held(
    update: Update, standing: Standing, limits: Limits, version: int, base: int, reason: str
) -> None:
    """As in the modes that let an update be some versions behind."""
    earlier = {1: bytes([1] * 32), 2: bytes([2] * 32), **standing.bases}
    offer, _ = update(base_version=version, base=bytes([base] * 32))
    judgement = judge("ann", offer, replace(standing, bases=earlier), limits)
    assert judgement == (Rejected(reason) if reason else Welcome())


def test_a7_everybody_may_train_when_nobody_is_asked_by_name(
    update: Update, standing: Standing, limits: Limits
) -> None:
    assert judge("eve", update()[0], replace(standing, asked=None), limits) == Welcome()


@pytest.mark.parametrize("held", [(OTHER, 5), (MINE, 4)])
def test_a6_a_second_update_of_a_node_waits_for_the_next_version(
    update: Update, standing: Standing, limits: Limits, held: tuple[str, int]
) -> None:
    at = replace(standing, in_hand=held)
    assert judge("ann", update()[0], at, limits) == Later()
    assert isinstance(judge("ann", update(samples=0)[0], at, limits), Rejected)


def test_a9_a_compression_that_nobody_knows_is_refused(
    update: Update, standing: Standing, limits: Limits
) -> None:
    judgement = judge("ann", update(compression="pickle")[0], standing, limits)
    assert judgement == Rejected("the plan asks for compression none")


@pytest.mark.parametrize(("size", "fits"), [(12, False), (6, True)])
def test_a10_the_size_is_that_of_the_packed_model(
    update: Update, standing: Standing, limits: Limits, size: int, *, fits: bool
) -> None:
    offer, _ = update(packed_as="fp16", size=size)
    judgement = judge("ann", offer, replace(standing, compression="fp16"), limits)
    assert (judgement == Welcome()) == fits


@pytest.mark.parametrize("packed_as", ["topk:0.5", "topk:0.5+fp16", "topk:0.5+int8"])
def test_a10_a_sparse_update_is_no_larger_than_the_longest_code_makes_it(
    update: Update, standing: Standing, limits: Limits, packed_as: str
) -> None:
    at = replace(standing, compression=packed_as)
    largest = named(packed_as).size(3)
    for size, fits in ((0, False), (1, True), (largest, True), (largest + 1, False)):
        judgement = judge("ann", update(packed_as=packed_as, size=size)[0], at, limits)
        assert (judgement == Welcome()) == fits
    assert judge("ann", update(packed_as=packed_as)[0], at, limits) == Welcome()


def test_a10_a_body_in_more_chunks_than_the_protocol_names_is_refused(
    update: Update, standing: Standing, limits: Limits
) -> None:
    parameters = MAX_CHUNKS // 4 + 1
    wide = replace(standing, spec=type(standing.spec)((("w", (parameters,)),)))
    size = 4 * parameters
    for chunk_bytes, fits in ((1, False), (2, True)):
        offer, _ = update(size=size, chunk_bytes=chunk_bytes)
        assert (judge("ann", offer, wide, limits) == Welcome()) == fits


@pytest.mark.parametrize(("samples", "fits"), [(0, False), (1, True), (100, True), (101, False)])
def test_a11_samples_are_within_the_limits(
    update: Update, standing: Standing, limits: Limits, samples: int, *, fits: bool
) -> None:
    assert (judge("ann", update(samples=samples)[0], standing, limits) == Welcome()) == fits


# The body, rule by rule


@pytest.mark.parametrize("packed_as", ["none", "fp16", "topk:0.999"])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_body_that_breaks_no_rule_gives_the_delta(
    update: Update, limits: Limits, packed_as: str, kind: type[bytes]
) -> None:
    offer, body = update((16, -16, 0.5), packed_as)
    delta = unpacked(check(offer, kind(body), 3, limits), 3)
    assert delta.tolist() == [16, -16, 0.5]
    assert delta.dtype == np.float32


@pytest.mark.parametrize("change", [{"size": 11}, {"size": 13}, {"digest": bytes(32)}])
def test_a12_a_body_of_another_size_or_digest_is_refused(
    update: Update, limits: Limits, change: dict[str, Any]
) -> None:
    offer, body = update(**change)
    with pytest.raises(PeerError, match="does not match its size or digest"):
        check(offer, body, 3, limits)


def test_a12_a_body_with_another_bit_is_refused(update: Update, limits: Limits) -> None:
    offer, body = update()
    with pytest.raises(PeerError, match="does not match its size or digest"):
        check(offer, body[:-1] + bytes([body[-1] ^ 1]), 3, limits)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "its values alone take"),
        (bytes(8), "are not 2"),
        (bytes(8) + b"\xc0\x00", "too many bytes"),
        (bytes(8) + b"\x18", "beyond the model"),
    ],
)
def test_a12_what_is_no_body_of_its_compression_is_refused(
    update: Update, limits: Limits, body: bytes, says: str
) -> None:
    """Two float32 of three values, and one byte that says which."""
    digest = hashlib.sha256(body).digest()
    offer, _ = update(packed_as="topk:0.5", size=len(body), digest=digest)
    with pytest.raises(PeerError, match=says):
        check(offer, body, 3, limits)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("packed_as", "behind"), [("int8", b"\x00\x01\x02"), ("topk:0.3", b"\x80\x80")]
)
def test_a13_a_step_or_a_chosen_value_that_is_no_number_is_refused(
    update: Update, limits: Limits, value: float, packed_as: str, behind: bytes
) -> None:
    body = np.array([value], "<f4").tobytes() + behind
    changes = {"size": len(body), "digest": hashlib.sha256(body).digest()}
    offer, _ = update(packed_as=packed_as, **changes)
    with pytest.raises(PeerError, match="NaN or infinity"):
        check(offer, body, 3, limits)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("packed_as", ["none", "fp16"])
def test_a13_what_is_no_number_is_refused(
    update: Update, limits: Limits, value: float, packed_as: str
) -> None:
    with pytest.raises(PeerError, match="NaN or infinity"):
        check(*update((0, value, 0), packed_as), 3, limits)


@pytest.mark.parametrize("value", [65520, -1e30])
def test_a13_what_saturated_fp16_is_refused(update: Update, limits: Limits, value: float) -> None:
    generous = limits.model_copy(update={"max_abs_delta": 2.0**20})
    with pytest.raises(PeerError, match="NaN or infinity"):
        check(*update((0, value, 0), "fp16"), 3, generous)


@pytest.mark.parametrize("value", [16.000002, -16.000002, 3e38])
def test_a14_a_change_beyond_the_limit_is_refused(
    update: Update, limits: Limits, value: float
) -> None:
    with pytest.raises(PeerError, match=r"a parameter changes by .*, the limit is 16"):
        check(*update((0, 0, value)), 3, limits)


def test_of_several_things_wrong_with_a_body_the_first_is_told(
    update: Update, limits: Limits
) -> None:
    offer, body = update((100, float("nan"), 0))
    with pytest.raises(PeerError, match="NaN or infinity"):
        check(offer, body, 3, limits)
    with pytest.raises(PeerError, match="does not match"):
        check(replace(offer, digest=bytes(32)), body, 3, limits)


@pytest.mark.parametrize("at", [0, 40_000, 99_999])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 17.0])
def test_every_block_of_a_large_body_is_checked(
    update: Update, limits: Limits, at: int, value: float
) -> None:
    delta = np.zeros(100_000, np.float32)
    check(*update(tuple(delta)), delta.size, limits)
    delta[at] = value
    with pytest.raises(PeerError, match=r"the update holds NaN|a parameter changes by 17"):
        check(*update(tuple(delta)), delta.size, limits)


def test_a_check_allocates_one_block(update: Update, limits: Limits) -> None:
    offer, body = update(tuple(np.zeros(1_000_000, np.float32)))
    tracemalloc.start()
    try:
        check(offer, body, 1_000_000, limits)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < len(body) / 10
