from collections.abc import Sequence

from aggregator.roster import Roster
from aggregator.window import Window
from shared.messages import MAX_NAMED, NodeState


def roster(*nodes: str) -> Roster:
    known = Roster("mnist", max_nodes=1000, grace_s=2.0)
    for node in nodes:
        known.heard(node, state(), 0.0)
    return known


def state(*, alive: bool = True, doing: str = "idle") -> NodeState:
    return NodeState(
        alive=alive, state_id="0" * 16, boot=1, connection=1, doing=doing, task="mnist"
    )


def window(*asked: str, goal: int = 2, deadline_at: float = 60.0) -> Window:
    return Window(set(asked), goal, 0.0, deadline_at, set())


def looking(known: Roster, *asked: str, in_hand: Sequence[str] = ()) -> Window:
    made = window(*asked)
    made.look_at(known.nodes, in_hand, known)
    return made


def test_it_closes_at_its_goal() -> None:
    assert looking(roster("a", "b", "c"), "a", "b", "c").due(["a", "c"], 1, 1.0) == "goal"


def test_it_stays_open_while_somebody_may_deliver() -> None:
    assert looking(roster("a", "b"), "a", "b", in_hand=["a"]).due(["a"], 1, 59.9) is None


def test_it_closes_early_when_the_missing_are_gone() -> None:
    known = roster("a", "b")
    known.heard("b", state(alive=False), 1.0)
    open_window = looking(known, "a", "b", in_hand=["a"])
    assert open_window.due(["a"], 1, 2.0) is None
    open_window.look_at(known.expire(3.0), ["a"], known)
    assert open_window.due(["a"], 1, 3.0) == "nobody left to wait for"
    assert open_window.due(["a"], 2, 3.0) is None


def test_it_closes_early_when_the_missing_were_refused() -> None:
    known = roster("a", "b")
    open_window = looking(known, "a", "b", in_hand=["a"])
    open_window.refused["b"] = "stale"
    open_window.look_at(["b"], ["a"], known)
    assert open_window.due(["a"], 1, 1.0) == "nobody left to wait for"
    assert open_window.why_missing(["a"], known) == {"b": "refused: stale"}


def test_the_deadline_counts_what_is_there() -> None:
    open_window = looking(roster("a", "b"), "a", "b", in_hand=["a"])
    assert open_window.due(["a"], 1, 60.0) == "deadline"
    assert open_window.due(["a"], 2, 60.0) == "below quorum"


def test_a_late_joiner_stands_in_for_a_member_that_is_gone() -> None:
    known = roster("a", "b", "c", "d")
    known.heard("b", state(alive=False, doing="stopped"), 1.0)
    known.expire(1.0)
    open_window = window("a", "b")
    open_window.bystanders.add("c")
    open_window.look_at(known.nodes, [], known)
    assert open_window.stand_ins([], known) == [("d", "b")]
    assert open_window.asked == {"a", "d"}
    assert open_window.hopeful == {"a", "d"}
    assert open_window.stand_ins([], known) == []


def test_where_anybody_may_train_those_who_come_are_waited_for_and_the_gone_are_not() -> None:
    known = roster("a", "b", "c")
    known.heard("b", state(alive=False, doing="stopped"), 1.0)
    known.expire(1.0)
    open_window = window("a", "b")
    open_window.ask_whoever_is_here(known.nodes, [], known)
    assert (open_window.asked, open_window.hopeful) == ({"a", "c"}, {"a", "c"})


def test_people_see_who_is_missing_and_how_long_it_takes() -> None:
    shown = window("a", "b").shown(4, ["a"], roster("a", "b"), 48.0)
    assert (shown.round, shown.expected, shown.arrived, shown.missing) == (4, 2, 1, 1)
    assert (shown.here, shown.awaited) == (("a",), {"b": "idle"})
    assert shown.closes_in_s == 12.0


def test_of_many_the_first_are_named_and_all_are_counted() -> None:
    names = [f"node-{number:04d}" for number in range(2 * MAX_NAMED + 2)]
    in_hand, missing = names[::2], names[1::2]
    open_window = window(*names, goal=len(names))
    open_window.refused = dict.fromkeys(missing[MAX_NAMED - 1 :], "stale")
    shown = open_window.shown(1, in_hand, roster(*names), 0.0)
    assert (shown.arrived, shown.missing) == (MAX_NAMED + 1, MAX_NAMED + 1)
    assert shown.here == tuple(in_hand[:MAX_NAMED])
    assert list(shown.awaited) == missing[:MAX_NAMED]
    assert list(shown.awaited.values())[-2:] == ["idle", "refused: stale"]
