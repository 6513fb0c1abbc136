import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from aggregator import ledger
from aggregator.ledger import Counted
from shared.messages import Offer

Update = Callable[..., tuple[Offer, bytes]]
START = bytes(32)


@pytest.fixture
def counted(update: Update) -> list[Counted]:
    return [
        Counted(node, update((number, 0, 0), samples=number)[0])
        for number, node in enumerate(("ann", "bob", "cid"), 1)
    ]


def test_a_link_is_the_hash_of_the_last_one_and_a_line(update: Update) -> None:
    offer, body = update()
    digest = hashlib.sha256(body).hexdigest()
    line = f'[4,[["ann",3,10,"none","{digest}"]]]'
    expected = hashlib.sha256(START + line.encode()).digest()
    assert ledger.chain(START, 4, [Counted("ann", offer)]) == expected


def test_the_order_of_arrival_does_not_matter(counted: list[Counted]) -> None:
    assert len({ledger.chain(START, 4, order) for order in permutations(counted)}) == 1


def change(one: Counted, **changes: Any) -> Counted:  # noqa: ANN401 - fields of every type
    return Counted(one.node, replace(one.offer, **changes))


def test_whatever_makes_another_model_makes_another_ledger(counted: list[Counted]) -> None:
    ann, bob, cid = counted
    others = [
        (START, 4, counted),
        (START, 5, counted),
        (bytes(31) + b"\x01", 4, counted),
        (START, 4, [ann, bob]),
        (START, 4, [ann, bob, cid, cid]),
        (START, 4, [ann, bob, Counted("dot", cid.offer)]),
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


def test_the_chain_stands_for_the_whole_run(counted: list[Counted]) -> None:
    one, other = ledger.chain(START, 1, counted), ledger.chain(START, 1, counted[:2])
    assert ledger.chain(one, 2, counted) != ledger.chain(other, 2, counted)


def test_an_entry_for_the_journal_names_what_was_counted(update: Update) -> None:
    offer, body = update()
    entry = Counted("ann", offer).entry()
    assert json.loads(json.dumps(entry)) == {
        "node": "ann",
        "update": "0123456789abcdef:5",
        "base_version": 3,
        "weight": 10,
        "compression": "none",
        "sha256": hashlib.sha256(body).hexdigest(),
        "metrics": {"train_loss": 0.5},
    }
