import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.roster import Roster
from shared.messages import NodeState, Verdict

MINE, NEW = "0123456789abcdef", "f" * 16
GRACE_S = 2.0


def birth(
    boot: int = 1,
    connection: int = 1,
    state_id: str = MINE,
    doing: str = "idle",
    task: str = "mnist",
    note: str = "",
) -> NodeState:
    return NodeState(
        alive=True,
        state_id=state_id,
        boot=boot,
        connection=connection,
        doing=doing,
        task=task,
        note=note,
    )


def death(
    boot: int = 1, connection: int = 1, state_id: str = MINE, doing: str = "offline"
) -> NodeState:
    return NodeState(alive=False, state_id=state_id, boot=boot, connection=connection, doing=doing)


@pytest.fixture
def roster() -> Roster:
    """Three nodes at most; ann was born at second 0."""
    made = Roster("mnist", 3, GRACE_S)
    assert made.heard("ann", birth(), 0.0)
    return made


def presence(roster: Roster, node: str = "ann") -> str:
    return roster.nodes[node].presence


# Births and wills


def test_a_node_is_present_from_its_birth_on(roster: Roster) -> None:
    assert presence(roster) == "present"
    assert roster.present == {"ann"}
    assert roster.next_deadline() is None


def test_only_nodes_of_the_runs_task_can_be_asked(roster: Roster) -> None:
    roster.heard("bob", birth(task="digits"), 0.0)
    assert roster.present == {"ann"}
    roster.heard("bob", birth(connection=2), 1.0)
    assert roster.present == {"ann", "bob"}
    roster.heard("ann", birth(connection=2, task="digits"), 1.0)
    assert roster.present == {"bob"}


def test_a_node_is_gone_when_the_grace_after_its_will_is_over(roster: Roster) -> None:
    roster.heard("ann", death(), 10.0)
    assert presence(roster) == "fading"
    assert roster.present == set()
    assert not roster.is_gone("ann")
    assert roster.next_deadline() == 12.0
    assert roster.expire(11.9) == []
    assert roster.expire(12.0) == ["ann"]
    assert roster.is_gone("ann")
    assert roster.expire(13.0) == []
    assert roster.next_deadline() is None


def test_a_blip_within_the_grace_changes_nothing(roster: Roster) -> None:
    roster.heard("ann", death(), 10.0)
    roster.heard("ann", birth(connection=2), 11.0)
    assert roster.expire(12.0) == []
    assert roster.present == {"ann"}


def test_the_will_of_an_earlier_connection_means_nothing(roster: Roster) -> None:
    roster.heard("ann", birth(connection=2), 10.0)
    roster.heard("ann", death(connection=1), 10.1)
    roster.heard("ann", death(boot=0, connection=9), 10.2)
    assert presence(roster) == "present"
    assert roster.next_deadline() is None


def test_the_will_of_a_connection_whose_birth_was_missed_counts(roster: Roster) -> None:
    roster.heard("ann", death(boot=2, connection=1), 10.0)
    assert roster.expire(12.0) == ["ann"]


def test_a_will_repeated_does_not_prolong_the_grace(roster: Roster) -> None:
    roster.heard("ann", death(), 10.0)
    roster.heard("ann", death(), 11.5)
    assert roster.expire(12.0) == ["ann"]


def test_a_birth_of_an_earlier_connection_means_nothing(roster: Roster) -> None:
    roster.heard("ann", birth(boot=2, connection=1), 1.0)
    roster.heard("ann", death(boot=2, connection=1), 2.0)
    roster.heard("ann", birth(boot=1, connection=7), 2.1)
    assert presence(roster) == "fading"
    assert roster.expire(4.0) == ["ann"]


def test_a_node_that_saw_its_own_death_is_born_again_on_the_same_connection(
    roster: Roster,
) -> None:
    roster.heard("ann", death(), 10.0)
    roster.expire(20.0)
    roster.heard("ann", birth(), 21.0)
    assert presence(roster) == "present"


def test_a_goodbye_needs_no_grace(roster: Roster) -> None:
    roster.heard("ann", death(doing="stopped"), 10.0)
    assert roster.expire(10.0) == ["ann"]
    assert roster.why_missing("ann") == "stopped by its operator"


def test_a_goodbye_within_the_grace_ends_it(roster: Roster) -> None:
    roster.doubt_all(10.0)
    roster.heard("ann", death(doing="stopped"), 10.5)
    assert roster.expire(10.5) == ["ann"]


def test_a_new_state_directory_is_a_new_life_whatever_its_numbers(roster: Roster) -> None:
    roster.heard("ann", birth(boot=8, connection=3), 1.0)
    roster.heard("ann", birth(boot=1, connection=1, state_id=NEW), 2.0)
    assert roster.nodes["ann"].state.state_id == NEW
    roster.heard("ann", death(boot=8, connection=3), 2.1)
    roster.heard("ann", death(boot=1, connection=1), 2.2)
    assert presence(roster) == "present"
    roster.heard("ann", death(boot=1, connection=1, state_id=NEW), 2.3)
    assert presence(roster) == "fading"


def test_the_will_of_an_unknown_node_makes_no_entry(roster: Roster) -> None:
    assert roster.heard("bob", death(), 1.0)
    assert "bob" not in roster.nodes


# No more than there is room for


def test_a_full_roster_takes_a_new_node_only_in_place_of_one_that_is_gone(roster: Roster) -> None:
    roster.heard("bob", birth(), 0.0)
    roster.heard("cid", birth(), 0.0)
    assert not roster.heard("dot", birth(), 1.0)
    assert roster.heard("ann", birth(connection=2), 1.0)  # whoever is known is heard
    roster.heard("bob", death(), 2.0)
    assert not roster.heard("dot", birth(), 3.0)
    roster.expire(4.0)
    assert roster.heard("dot", birth(), 4.0)
    assert sorted(roster.nodes) == ["ann", "cid", "dot"]


def test_whoever_left_the_roster_can_be_expected_no_more(roster: Roster) -> None:
    roster.doubt_all(0.0)
    roster.expire(2.0)
    assert roster.is_gone("zoe")


def test_who_has_been_gone_the_longest_gives_way_first(roster: Roster) -> None:
    for second, node in enumerate(("bob", "cid")):
        roster.heard(node, birth(), second)
    for second, node in enumerate(("cid", "ann")):
        roster.heard(node, death(doing="stopped"), second + 2)
        roster.expire(second + 2)
    assert roster.heard("dot", birth(), 5.0)
    assert sorted(roster.nodes) == ["ann", "bob", "dot"]


# What is kept while it changes is what a look at every node gives


class Naive:
    """Who is fading until when, found anew after every event by a look at every node."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self.ends: dict[str, float] = {}

    def look(self, what: str, node: str, now: float) -> None:
        for name, entry in self.roster.nodes.items():
            if entry.presence != "fading":
                self.ends.pop(name, None)
            elif what == "doubt" or name not in self.ends:
                self.ends[name] = now + GRACE_S
            if entry.presence == "fading" and name == node and entry.state.doing == "stopped":
                self.ends[name] = min(now, self.ends[name])

    def over(self, now: float) -> list[str]:
        return [node for node, end in self.ends.items() if end <= now]

    def named(self, presence: str) -> set[str]:
        return {node for node, one in self.roster.nodes.items() if one.presence == presence}


def happens(roster: Roster, what: str, node: str, connection: int, now: float) -> None:
    if what == "doubt":
        roster.doubt_all(now)
    elif what in ("mnist", "digits"):
        roster.heard(node, birth(connection=connection, task=what), now)
    else:
        roster.heard(node, death(connection=connection, doing=what), now)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["mnist", "digits", "offline", "stopped", "doubt"]),
            st.sampled_from("abcde"),
            st.integers(1, 2),
            st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        ),
        max_size=40,
    )
)
def test_what_is_kept_is_what_a_look_at_every_node_gives(
    story: list[tuple[str, str, int, float]],
) -> None:
    roster, now = Roster("mnist", 3, GRACE_S), 0.0
    naive = Naive(roster)
    for what, node, connection, seconds in story:
        now += seconds
        before = {name: (one.presence, one.state) for name, one in roster.nodes.items()}
        roster.changed.clear()
        happens(roster, what, node, connection, now)
        naive.look(what, node, now)
        assert sorted(roster.expire(now)) == sorted(naive.over(now))
        naive.look("expire", "", now)
        assert naive.ends.keys() == naive.named("fading")
        if not roster.unsure:
            assert roster.next_deadline() == min(naive.ends.values(), default=None)
        assert roster.present == {
            name for name in naive.named("present") if roster.nodes[name].state.task == "mnist"
        }
        after = {name: (one.presence, one.state) for name, one in roster.nodes.items()}
        names = before.keys() | after.keys()
        assert {name for name in names if before.get(name) != after.get(name)} <= roster.changed


# Doubts after our own link was down


def test_who_does_not_repeat_its_birth_after_our_reconnect_is_gone(roster: Roster) -> None:
    roster.heard("bob", birth(), 0.0)
    roster.doubt_all(10.0)
    assert (presence(roster), roster.next_deadline()) == ("fading", 12.0)
    roster.heard("bob", birth(), 11.0)
    assert roster.expire(12.0) == ["ann"]
    assert roster.present == {"bob"}


def test_doubts_begin_the_grace_anew_since_a_birth_may_have_passed_unseen(roster: Roster) -> None:
    roster.heard("ann", death(), 10.0)
    roster.doubt_all(11.0)
    assert roster.expire(12.0) == []
    assert roster.expire(13.0) == ["ann"]
    roster.doubt_all(14.0)
    assert presence(roster) == "gone"  # and who is gone stays so until its next birth


def test_who_was_asked_before_a_restart_has_the_grace_to_show_up() -> None:
    fresh = Roster("mnist", 3, GRACE_S)
    assert not fresh.is_gone("ann")
    fresh.doubt_all(5.0)
    assert fresh.next_deadline() == 7.0
    fresh.expire(6.9)
    assert not fresh.is_gone("ann")
    fresh.expire(7.0)
    assert fresh.is_gone("ann")
    assert fresh.next_deadline() is None
    fresh.doubt_all(9.0)  # our link was down again: the same question anew
    assert not fresh.is_gone("ann")


# For people


def test_why_a_node_is_missing(roster: Roster) -> None:
    assert roster.why_missing("zoe") == "not seen since this aggregator started"
    assert roster.why_missing("ann") == "idle"
    roster.heard("ann", birth(doing="declined", note="wrong task"), 1.0)
    assert roster.why_missing("ann") == "declined: wrong task"
    roster.heard("ann", death(), 2.0)
    assert roster.why_missing("ann") == "link lost, grace time runs"
    roster.expire(4.0)
    assert roster.why_missing("ann") == "gone"


def test_reasons_are_sorted_by_node_and_fit_their_field(roster: Roster) -> None:
    roster.heard("bob", birth(doing="x" * 200, note="y" * 200), 0.0)
    reasons = roster.reasons({"bob", "ann"})
    assert list(reasons) == ["ann", "bob"]
    assert [len(reason) for reason in reasons.values()] == [4, 200]


def test_verdicts_are_counted(roster: Roster) -> None:
    roster.settled("ann", Verdict(MINE, 1, 4, ""))
    roster.settled("ann", Verdict(MINE, 2, 5, ""))
    roster.settled("zoe", Verdict(MINE, 1, 4, ""))
    entry = roster.nodes["ann"]
    assert (entry.counted, entry.refused, entry.last) == (2, 0, "counted in version 5")
    roster.settled("ann", Verdict(MINE, 3, None, "late"))
    assert (entry.counted, entry.refused, entry.last) == (2, 1, "refused: late")
    roster.heard("ann", birth(boot=2), 1.0)
    assert roster.nodes["ann"].counted == 2


def test_pages_list_every_node_by_name_once(roster: Roster) -> None:
    roster.heard("cid", birth(doing="x" * 200, note="y" * 200), 0.0)
    roster.settled("cid", Verdict(MINE, 1, None, "z" * 200))
    roster.heard("bob", birth(), 0.0)
    first, second = roster.pages(2)
    assert [entry.node for entry in (*first, *second)] == ["ann", "bob", "cid"]
    assert (len(second[0].doing), len(second[0].last)) == (200, 200)
    assert Roster("mnist", 3, GRACE_S).pages(2) == [()]
