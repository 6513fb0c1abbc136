import json
from collections.abc import Sequence

from aggregator import bulletin
from aggregator.bulletin import Bulletin
from aggregator.events import Effect, Publish
from aggregator.roster import Roster
from shared import codec
from shared.messages import MAX_NAMED, AggregatorState, NodeState, RosterPage, Window
from shared.topics import Topics

TOPICS = Topics("r")
OWNER = "0123456789abcdef"
LIMIT = 15_360
"""What the smallest packet holds."""


def state(window: Window | None = None) -> AggregatorState:
    return AggregatorState(alive=True, owner=OWNER, boot=1, connection=1, window=window)


def roster(nodes: int = 1, doing: str = "idle") -> Roster:
    made = Roster("mnist", 10_000, 2.0)
    for number in range(nodes):
        born = NodeState(alive=True, state_id=OWNER, boot=1, connection=1, doing=doing)
        made.heard(f"node-{number:04d}", born, 0.0)
    return made


def ends(effects: Sequence[Effect]) -> list[str]:
    found = []
    for effect in effects:
        assert isinstance(effect, Publish)
        assert effect.retain
        found.append(effect.topic.removeprefix("midge/v1/r/aggregator/"))
    return found


def payloads(
    board: Bulletin, of: AggregatorState, nodes: Roster, limit: int = LIMIT
) -> list[bytes]:
    effects = board.due(0.0, lambda: of, nodes, TOPICS, limit)
    return [effect.payload for effect in effects if isinstance(effect, Publish)]


# Not more often than people can read


def test_at_first_everything_is_said() -> None:
    board = Bulletin()
    assert board.next_deadline() == 0.0
    assert ends(board.due(5.0, state, roster(), TOPICS, LIMIT)) == ["state", "roster/0"]
    assert board.next_deadline() is None


def test_without_a_change_nothing_is_said() -> None:
    board = Bulletin()
    board.due(5.0, state, roster(), TOPICS, LIMIT)
    assert board.due(1000.0, state, roster(), TOPICS, LIMIT) == []


def test_a_change_is_said_after_the_pause_and_not_before() -> None:
    board = Bulletin()
    said = []
    for now in (5.0, 5.1, 5.2, 5.25, 5.3, 5.9, 6.0, 6.1):
        said.append(ends(board.due(now, state, roster(), TOPICS, LIMIT)))
        board.changed()
    assert said == [
        ["state", "roster/0"],
        [],
        [],
        ["state"],
        [],
        ["state"],
        ["roster/0"],
        [],
    ]
    assert board.next_deadline() == 5.9 + bulletin.STATE_PAUSE_S


def test_a_thousand_changes_in_a_second_make_a_few_messages() -> None:
    board = Bulletin()
    said = []
    for step in range(1000):
        board.changed()
        said += ends(board.due(step / 1000, state, roster(), TOPICS, LIMIT))
    assert (said.count("state"), said.count("roster/0")) == (4, 1)


def test_the_state_is_not_even_made_when_it_is_not_due() -> None:
    def never() -> AggregatorState:
        raise AssertionError

    board = Bulletin()
    board.due(5.0, state, roster(), TOPICS, LIMIT)
    board.changed()
    assert board.due(5.1, never, roster(), TOPICS, LIMIT) == []


def test_after_a_reconnect_everything_is_said_at_once() -> None:
    board = Bulletin()
    board.due(5.0, state, roster(), TOPICS, LIMIT)
    board.all_new()
    assert board.next_deadline() == 0.0
    assert ends(board.due(5.0, state, roster(), TOPICS, LIMIT)) == ["state", "roster/0"]


def test_the_machine_is_woken_when_what_waits_may_be_said() -> None:
    board = Bulletin()
    board.due(5.0, state, roster(), TOPICS, LIMIT)
    board.changed()
    assert board.next_deadline() == 5.25
    board.due(5.25, state, roster(), TOPICS, LIMIT)
    assert board.next_deadline() == 6.0
    board.due(6.0, state, roster(), TOPICS, LIMIT)
    assert board.next_deadline() is None


# What is said can be read, and fits


def test_state_and_roster_come_as_their_messages() -> None:
    window = Window(1, 2, 1, 1, ("ann",), {"bob": "training"}, 3.5)
    said, page = payloads(Bulletin(), state(window), roster(2))
    assert codec.decode_json(AggregatorState, said) == state(window)
    (only,) = roster(2).pages(100)
    assert codec.decode_json(RosterPage, page) == RosterPage(0, 1, only)


def test_a_long_roster_is_cut_into_pages() -> None:
    _, *pages = payloads(Bulletin(), state(), roster(250), limit=10**6)
    heads = [(json.loads(page)["page"], json.loads(page)["pages"]) for page in pages]
    assert heads == [(0, 3), (1, 3), (2, 3)]
    assert [len(json.loads(page)["nodes"]) for page in pages] == [100, 100, 50]


def test_pages_get_shorter_until_each_fits_a_packet() -> None:
    _, *pages = payloads(Bulletin(), state(), roster(100, doing="\U0001f600" * 200))
    assert max(map(len, pages)) <= LIMIT
    read = [codec.decode_json(RosterPage, page) for page in pages]
    assert [entry.node for page in read for entry in page.nodes] == list(roster(100).nodes)
    assert {page.pages for page in read} == {len(pages)}


def test_a_window_too_large_for_a_packet_is_told_without_names() -> None:
    names = [f"node-{number:04d}" for number in range(MAX_NAMED)]
    reasons = dict.fromkeys(names, "\U0001f600" * 200)
    crowd = Window(1, 2000, 900, 1100, tuple(names), reasons, 3.5)
    said, _ = payloads(Bulletin(), state(crowd), roster(), LIMIT)
    assert len(said) <= LIMIT
    bare = Window(1, 2000, 900, 1100, (), {}, 3.5)
    assert codec.decode_json(AggregatorState, said) == state(bare)


def test_the_largest_window_can_be_read_where_packets_are_large() -> None:
    names = [f"{number:064d}" for number in range(MAX_NAMED)]
    reasons = dict.fromkeys(names, "\U0001f600" * 200)
    crowd = Window(1, 2000, 900, 1100, tuple(names), reasons, 3.5)
    said, _ = payloads(Bulletin(), state(crowd), roster(), 2**28)
    assert codec.decode_json(AggregatorState, said) == state(crowd)


def test_the_pause_grows_with_the_roster() -> None:
    board, many = Bulletin(), roster(2500)
    board.due(5.0, state, many, TOPICS, LIMIT)
    board.changed()
    assert ends(board.due(7.4, state, many, TOPICS, LIMIT)) == ["state"]
    assert board.next_deadline() == 7.5
    board.changed()
    assert "roster/0" in ends(board.due(7.5, state, many, TOPICS, LIMIT))
