import io

from rich.console import Console

from midge import status
from shared.messages import AggregatorState, RosterEntry, Window


def told(state: AggregatorState, *nodes: RosterEntry) -> str:
    screen = io.StringIO()
    Console(file=screen, width=120).print(status.render("demo", state, nodes))
    return screen.getvalue()


def test_who_is_missing_and_why() -> None:
    window = Window(
        round=4,
        expected=2,
        arrived=1,
        missing=3,
        here=("a",),
        awaited={"b": "link lost, grace time runs"},
        closes_in_s=12.4,
    )
    state = AggregatorState(
        alive=True,
        owner="0" * 16,
        boot=1,
        connection=1,
        term=2,
        round=4,
        version=3,
        rounds=10,
        doing="collecting updates",
        window=window,
        accuracy=0.9,
        loss=0.25,
    )
    node = RosterEntry("b", "fading", "link lost, grace time runs", 3, 2, 1, "refused: stale")
    text = told(state, node)
    assert "3 of 10, round 4, term 2" in text
    assert "accuracy 90.00%, loss 0.2500" in text
    assert "1 of 2 updates, closes in 12 s at the latest" in text
    assert "missing b: link lost, grace time runs" in text
    assert "and 2 more are missing" in text
    assert "refused: stale" in text


def test_an_aggregator_whose_link_broke_is_offline() -> None:
    assert "offline: its link broke" in told(
        AggregatorState(alive=False, owner="0" * 16, boot=1, connection=1)
    )


def test_a_finished_run_still_tells_how_far_it_came() -> None:
    state = AggregatorState(
        alive=False, owner="0" * 16, boot=1, connection=1, version=10, rounds=10, doing="finished"
    )
    text = told(state)
    assert "finished" in text
    assert "10 of 10" in text
