from aggregator import release
from aggregator.events import Evaluated, EvaluationFailed
from aggregator.scoring import Scoring
from shared.params import from_tensors

ONE, TWO, THREE = (release.make(version, from_tensors({"w": [version]})) for version in (1, 2, 3))


def test_nothing_is_asked_or_due_where_no_scores_are_wanted() -> None:
    scoring = Scoring(wanted=False, one_at_a_time=False)
    assert (scoring.ask(ONE), scoring.due) == ([], False)


def test_every_version_is_scored_and_the_last_ends_it() -> None:
    scoring = Scoring(wanted=True, one_at_a_time=False)
    assert [job.version for one in (ONE, TWO) for job in scoring.ask(one)] == [1, 2]
    first = Evaluated(1, 0.5, 2.0)
    assert (scoring.take(first, TWO), scoring.due, scoring.last) == ([], True, first)
    assert scoring.take(EvaluationFailed(2, "no room"), TWO) == []
    assert (scoring.due, scoring.last) == (False, first)


def test_one_at_a_time_the_newest_is_next() -> None:
    scoring = Scoring(wanted=True, one_at_a_time=True)
    scoring.ask(ONE)
    assert (scoring.ask(TWO), scoring.ask(THREE)) == ([], [])
    (job,) = scoring.take(Evaluated(1, 0.5, 2.0), THREE)
    assert (job.version, scoring.due) == (3, True)
    assert scoring.take(Evaluated(3, 0.6, 1.0), THREE) == []
    assert not scoring.due
