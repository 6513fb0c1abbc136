import pytest

from aggregator.tally import Tally


def test_what_the_broker_dropped_before_we_came_is_not_our_trouble() -> None:
    tally = Tally()
    assert tally.broker_dropped(b"7", at_once=True) == 0
    assert tally.broker_dropped(b"7", at_once=False) == 0
    assert tally.trouble == ""


def test_what_it_drops_from_then_on_is() -> None:
    tally = Tally()
    tally.broker_dropped(b"7", at_once=True)
    assert tally.broker_dropped(b"9", at_once=False) == 2
    assert tally.broker_dropped(b"10", at_once=True) == 1
    assert tally.dropped_by_broker == 3
    assert tally.trouble == "the broker dropped 3 messages: raise its max_queued_messages"


@pytest.mark.parametrize(("count", "news"), [(b"0", 0), (b"1", 1), (b"4", 1)])
def test_a_first_count_that_comes_late_is_news_of_one_at_least(count: bytes, news: int) -> None:
    assert Tally().broker_dropped(count, at_once=False) == news


def test_a_broker_that_was_started_anew_counts_from_nothing() -> None:
    tally = Tally()
    tally.broker_dropped(b"7", at_once=True)
    assert tally.broker_dropped(b"0", at_once=False) == 0
    assert tally.broker_dropped(b"2", at_once=False) == 2


@pytest.mark.parametrize("noise", [b"", b"-1", b"many", b"1.5", b" 3", b"\xd9\xa3", b"9" * 17])
def test_a_count_that_is_none_changes_nothing(noise: bytes) -> None:
    tally = Tally()
    tally.broker_dropped(b"7", at_once=True)
    assert tally.broker_dropped(noise, at_once=False) == 0
    assert tally.broker_dropped(b"8", at_once=False) == 1


def test_what_was_dropped_here_names_the_setting() -> None:
    tally = Tally(dropped_here=4, dropped_by_broker=3)
    assert tally.trouble == (
        "inbox full, 4 messages dropped: raise limits.inbox_bytes; "
        "the broker dropped 3 messages: raise its max_queued_messages"
    )
    assert (tally.entry()["dropped_here"], tally.entry()["dropped_by_broker"]) == (4, 3)
