import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from aggregator import ledger
from aggregator.config import Config, Limits
from aggregator.intake import Intake
from aggregator.ledger import Counted
from aggregator.release import Release
from shared.messages import Offer

Update = Callable[..., tuple[Offer, bytes]]
START = bytes(32)


@pytest.fixture
def counted(update: Update) -> list[Counted]:
    return [
        Counted(node, update((number, 0, 0), samples=number)[0], 0, number)
        for number, node in enumerate(("ann", "bob", "cid"), 1)
    ]


def test_a_link_is_the_hash_of_the_last_one_and_a_line(update: Update) -> None:
    offer, body = update()
    digest = hashlib.sha256(body).hexdigest()
    line = f'[4,[["ann",3,10,"none","{digest}"]]]'
    expected = hashlib.sha256(START + line.encode()).digest()
    assert ledger.chain(START, 4, [Counted("ann", offer, 0, 10)]) == expected


def test_the_order_of_arrival_does_not_matter(
    counted: list[Counted], released: Release, limits: Limits
) -> None:
    """Where updates are averaged, the intake gives them by node."""
    links = set()
    for order in permutations(counted):
        intake = Intake(released, Config(limits=limits), {}, {}, {})
        intake.in_hand = {one.node: one for one in order}
        links.add(ledger.chain(START, 4, intake.counted()))
    assert links == {ledger.chain(START, 4, counted)}


def test_the_order_is_the_one_that_is_given(counted: list[Counted]) -> None:
    """Where updates are mixed one after the other it makes another model."""
    orders = list(permutations(counted))
    assert len({ledger.chain(START, 4, order) for order in orders}) == len(orders)


def change(one: Counted, **changes: Any) -> Counted:  # noqa: ANN401 - fields of every type
    return replace(one, offer=replace(one.offer, **changes))


def test_whatever_makes_another_model_makes_another_ledger(counted: list[Counted]) -> None:
    ann, bob, cid = counted
    others = [
        (START, 4, counted),
        (START, 5, counted),
        (bytes(31) + b"\x01", 4, counted),
        (START, 4, [ann, bob]),
        (START, 4, [ann, bob, cid, cid]),
        (START, 4, [ann, bob, replace(cid, node="dot")]),
        (START, 4, [ann, bob, change(cid, samples=4)]),
        (START, 4, [ann, bob, change(cid, digest=bytes(32))]),
        (START, 4, [ann, bob, change(cid, base_version=2)]),
        (START, 4, [ann, bob, change(cid, compression="fp16")]),
        (START, 4, [change(ann, samples=2), change(bob, samples=1), cid]),
        (START, 4, []),
    ]
    assert len({ledger.chain(*other) for other in others}) == len(others)


def test_who_carried_an_update_and_when_is_not_in_the_ledger(counted: list[Counted]) -> None:
    carried = [
        change(one, state_id="f" * 16, counter=77, round=9, chunk_bytes=3, metrics={})
        for one in counted
    ]
    assert ledger.chain(START, 4, carried) == ledger.chain(START, 4, counted)


def test_a_weight_follows_from_the_rest_and_is_not_in_the_ledger(counted: list[Counted]) -> None:
    lighter = [replace(one, weight=one.weight / 2, staleness=0) for one in counted]
    assert ledger.chain(START, 4, lighter) == ledger.chain(START, 4, counted)


def test_the_chain_stands_for_the_whole_run(counted: list[Counted]) -> None:
    one, other = ledger.chain(START, 1, counted), ledger.chain(START, 1, counted[:2])
    assert ledger.chain(one, 2, counted) != ledger.chain(other, 2, counted)


def test_an_entry_for_the_journal_names_what_was_counted(update: Update) -> None:
    offer, body = update()
    entry = Counted("ann", offer, 2, 5.78125).entry()
    assert json.loads(json.dumps(entry)) == {
        "node": "ann",
        "update": "0123456789abcdef:5",
        "base_version": 3,
        "staleness": 2,
        "samples": 10,
        "weight": 5.78125,
        "compression": "none",
        "sha256": hashlib.sha256(body).hexdigest(),
        "metrics": {"train_loss": 0.5},
    }


@pytest.mark.parametrize(
    ("said", "counted_as"),
    [(None, 0), (1234.7, 1234), (-5.0, 0), (1.7e308, 2**40), (-1.7e308, 0)],
)
def test_whatever_a_node_says_that_it_received_sums_of_it_stay_exact(
    update: Update, said: float | None, counted_as: int
) -> None:
    metrics = {} if said is None else {"bytes_down": said}
    assert Counted("ann", update(metrics=metrics)[0], 0, 10).bytes_down == counted_as
