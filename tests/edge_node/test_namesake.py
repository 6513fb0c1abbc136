from dataclasses import replace

import pytest

from edge_node.events import Memory
from edge_node.namesake import SHORT_S, TIMES, Namesake
from shared.messages import NodeState

US = Memory("7" * 16, boot=3)
OURS = NodeState(alive=False, state_id="7" * 16, boot=3, connection=1)
ANOTHER = replace(OURS, state_id="0" * 16)
A_COPY = replace(OURS, boot=2)


def lives(namesake: Namesake, *heard: NodeState, lived_s: float = 1.0) -> list[bool]:
    """One connection after the other, each with what is retained; the first one is quiet."""
    namesake.connected(0.0)
    found = []
    for number, state in enumerate(heard, 1):
        namesake.connected(number * lived_s)
        found.append(namesake.heard(state, US))
    return found


@pytest.mark.parametrize("state", [ANOTHER, A_COPY])
def test_who_is_thrown_out_by_another_of_its_name_knows_at_last(state: NodeState) -> None:
    assert lives(Namesake(), *TIMES * [state]) == [*(TIMES - 1) * [False], True]


@pytest.mark.parametrize("state", [replace(OURS, state_id="f" * 16), replace(OURS, boot=4)])
def test_of_two_one_stays(state: NodeState) -> None:
    assert not any(lives(Namesake(), *20 * [state]))


def test_a_broker_that_crashes_again_and_again_is_no_namesake() -> None:
    assert not any(lives(Namesake(), *20 * [OURS]))


def test_long_lives_between_make_no_fight() -> None:
    assert not any(lives(Namesake(), *20 * [ANOTHER], lived_s=SHORT_S))


def test_what_is_heard_later_on_a_connection_proves_nothing() -> None:
    """Anybody could write it."""
    namesake = Namesake()
    namesake.connected(0.0)
    assert not any(namesake.heard(ANOTHER, US) for _ in range(20))
    namesake.connected(1.0)
    assert not namesake.heard(OURS, US)
    assert not any(namesake.heard(ANOTHER, US) for _ in range(20))


def test_one_life_of_our_own_in_between_begins_the_count_anew() -> None:
    heard = [*(TIMES - 1) * [ANOTHER], OURS, *(TIMES - 1) * [ANOTHER]]
    assert not any(lives(Namesake(), *heard))
