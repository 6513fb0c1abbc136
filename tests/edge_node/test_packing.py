from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_node import packing
from edge_node.events import Entry, Memory, Rest
from shared import compression
from shared.messages import Plan
from shared.params import Floats, Params, Spec

SIZE = 40
SPEC = Spec((("w", (SIZE,)),))
OWNER = 16 * "a"
MEMORY = Memory(16 * "1", owner=OWNER)
SPARSE = ["topk:0.1", "topk:0.1+fp16", "topk:0.3+int8"]
VALUES = hnp.arrays(np.float32, SIZE, elements=st.floats(-10, 10, width=16))


def plan(name: str) -> Plan:
    return Plan("null", 5, 1, 0, 0.1, 0.0, name, b"", 60.0)


def params(values: object) -> Params:
    return Params(SPEC, np.broadcast_to(np.array(values, np.float32), SIZE).copy())


def rest(values: object, **changes: object) -> Rest:
    made = Rest(OWNER, SPEC.digest, params(values).flat.tobytes())
    return replace(made, **changes)  # type: ignore[arg-type]


def sent(body: bytes, name: str) -> Floats:
    return compression.unpacked(compression.named(name).open(body, SIZE), SIZE)


def values(of: Rest | None) -> Floats:
    assert of is not None
    return np.frombuffer(of.data, "<f4")


def entry(body: bytes, name: str, owner: str = OWNER) -> Entry:
    return Entry(1, 1, 0, bytes(32), SPEC.digest, 10, {}, name, body, bytes(32), owner)


def pack(
    delta: object, name: str, memory: Memory = MEMORY, node: str = "ann", number: int = 1
) -> tuple[bytes, Rest | None]:
    body, rest = packing.pack(params(delta), plan(name), node, number, memory)
    return bytes(body), rest


@given(st.lists(VALUES, min_size=1, max_size=6), st.sampled_from(SPARSE))
def test_all_that_was_learnt_was_sent_or_is_still_to_come(deltas: list[Floats], name: str) -> None:
    memory, total, learnt = MEMORY, np.zeros(SIZE), np.zeros(SIZE)
    for number, delta in enumerate(deltas):
        body, left = pack(delta, name, memory, number=number)
        total += sent(body, name)
        learnt += delta
        memory = replace(memory, rest=left)
        assert total + values(left) == pytest.approx(learnt, abs=1e-4)


def test_what_stays_behind_grows_until_it_is_sent() -> None:
    delta = np.full(SIZE, 0.1, np.float32)
    delta[:4] = 0.3
    memory, ever = MEMORY, np.zeros(SIZE, bool)
    for number in range(20):
        body, left = pack(delta, "topk:0.1", memory, number=number)
        ever |= sent(body, "topk:0.1") != 0
        memory = replace(memory, rest=left)
    assert ever.all()


@given(VALUES, VALUES, st.sampled_from(SPARSE))
def test_a_refusal_gives_back_what_was_sent(delta: Floats, before: Floats, name: str) -> None:
    body, left = pack(delta, name, replace(MEMORY, rest=rest(before)))
    memory = replace(MEMORY, rest=left)
    after = packing.rest_after(entry(body, name), memory, counted=False)
    assert after is not None
    assert after.given_back
    assert values(after) == pytest.approx(delta + before, abs=1e-4)
    assert packing.rest_after(entry(body, name), memory, counted=True) == left


@pytest.mark.parametrize("counted", [True, False])
def test_what_an_earlier_run_says_of_its_update_leaves_the_rest_alone(*, counted: bool) -> None:
    body, _ = pack(1.0, "topk:0.1")
    left = rest(0.5, given_back=True)
    memory = replace(MEMORY, rest=left)
    after = packing.rest_after(entry(body, "topk:0.1", "0" * 16), memory, counted=counted)
    assert after == left


def test_after_a_second_refusal_in_a_row_nothing_is_kept() -> None:
    body, left = pack(1.0, "topk:0.1", replace(MEMORY, rest=rest(0.5, given_back=True)))
    assert left is not None
    kept = replace(MEMORY, rest=replace(left, given_back=True))
    assert packing.rest_after(entry(body, "topk:0.1"), kept, counted=False) is None
    counted = packing.rest_after(entry(body, "topk:0.1"), kept, counted=True)
    assert counted == replace(left, given_back=False)


def test_two_refusals_are_seen_through_the_update_between_them() -> None:
    """The update that is made after a refusal does not make it forgotten."""
    memory = replace(MEMORY, rest=rest(0.5, given_back=True))
    body, left = pack(1.0, "topk:0.1", memory)
    after = packing.rest_after(entry(body, "topk:0.1"), replace(memory, rest=left), counted=False)
    assert after is None


@pytest.mark.parametrize("name", ["none", "fp16", "int8"])
def test_what_sends_everything_sends_the_rest_too_and_keeps_none(name: str) -> None:
    body, left = pack(1.0, name, replace(MEMORY, rest=rest(0.5)))
    assert sent(body, name) == pytest.approx(np.full(SIZE, 1.5), abs=0.02)
    assert left is None
    assert packing.rest_after(entry(body, name), MEMORY, counted=False) is None


def test_a_round_for_scores_leaves_the_rest_alone() -> None:
    body, left = pack(0.0, compression.EMPTY, replace(MEMORY, rest=rest(0.5)))
    assert (body, left) == (b"", rest(0.5))
    scored = packing.rest_after(
        entry(b"", compression.EMPTY), replace(MEMORY, rest=left), counted=False
    )
    assert scored == left


@pytest.mark.parametrize("change", [{"owner": 16 * "b"}, {"spec": bytes(32)}])
def test_the_rest_of_another_run_or_model_is_dropped(change: dict[str, object]) -> None:
    alien = replace(MEMORY, rest=rest(0.5, **change))
    assert pack(1.0, "topk:0.1", alien) == pack(1.0, "topk:0.1", MEMORY)


@pytest.mark.parametrize(("delta", "before"), [(3e38, 3e38), (-3e38, -2e38)])
def test_a_sum_that_is_not_finite_is_never_sent_or_kept(delta: float, before: float) -> None:
    body, left = pack(delta, "topk:0.1", replace(MEMORY, rest=rest(before)))
    assert np.isfinite(sent(body, "topk:0.1")).all()
    assert np.isfinite(values(left)).all()


def test_what_fp16_cannot_hold_ends_the_rest() -> None:
    body, left = pack(1e6, "topk:0.1+fp16", replace(MEMORY, rest=rest(1.0)))
    assert np.isinf(sent(body, "topk:0.1+fp16")).any()
    assert left is None


def test_a_body_that_an_older_midge_made_gives_nothing_back() -> None:
    memory = replace(MEMORY, rest=rest(0.5))
    assert packing.rest_after(entry(b"?", "zip"), memory, counted=False) == rest(0.5)


@pytest.mark.parametrize("name", ["int8", "topk:0.3+int8"])
def test_the_draws_come_from_seed_node_and_round(name: str) -> None:
    delta = np.linspace(-1, 1, SIZE)
    first = pack(delta, name)
    assert pack(delta, name) == first
    assert pack(delta, name, node="bob") != first
    assert pack(delta, name, number=2) != first
    other = packing.pack(params(delta), replace(plan(name), seed=6), "ann", 1, MEMORY)
    assert other != first
