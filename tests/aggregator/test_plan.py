import pytest

from aggregator.config import Config, Rounds, Server, Training
from aggregator.plan import learning_rate, plan
from shared.cohort import marks
from shared.compression import EMPTY


def test_the_learning_rate_falls_in_equal_steps_at_the_end() -> None:
    training = Training(learning_rate=0.4, last_rounds=3, last_rate_share=0.25)
    rates = [learning_rate(training, version, rounds=6) for version in range(8)]
    assert rates == pytest.approx([0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])
    assert learning_rate(Training(learning_rate=0.4), 5, rounds=6) == 0.4
    longer = training.model_copy(update={"last_rounds": 9})
    assert learning_rate(longer, 5, rounds=6) == pytest.approx(0.1)
    assert learning_rate(longer, 0, rounds=6) == pytest.approx(0.4 * (1 - 4 / 9 * 0.75))


def test_it_names_the_cohort_and_what_to_do() -> None:
    training = Training(epochs=2, batch_size=0, learning_rate=0.3, compression="fp16")
    config = Config(task="null", seed=7, training=training, rounds=Rounds(deadline_s=30))
    made = plan(config, 0, {"b", "a"}, scores_only=False, open_=False)
    assert (made.task, made.seed, made.cohort, made.deadline_s) == ("null", 7, marks("ab"), 30)
    assert (made.epochs, made.batch_size, made.learning_rate) == (2, 0, 0.3)
    assert (made.compression, made.open, made.max_staleness) == ("fp16", False, 0)


def test_for_scores_alone_nothing_is_trained_and_nothing_sent() -> None:
    config = Config(task="null", local_test=True, training=Training(compression="fp16"))
    made = plan(config, 3, {"a"}, scores_only=True, open_=False)
    assert (made.epochs, made.compression, made.score) == (0, EMPTY, True)


@pytest.mark.parametrize("mode", ["buffered", "asynchronous"])
def test_an_open_plan_says_how_far_behind_an_update_may_be(mode: str) -> None:
    rounds = Rounds.model_validate({"mode": mode, "max_staleness": 5})
    made = plan(Config(rounds=rounds), 3, (), scores_only=False, open_=True)
    assert (made.open, made.max_staleness, made.cohort) == (True, 5, b"")


def test_without_an_open_window_nobody_may_train_in_any_mode() -> None:
    made = plan(Config(rounds=Rounds(mode="buffered")), 3, (), scores_only=False, open_=False)
    assert not made.open


def test_the_server_has_no_part_in_it() -> None:
    plans = [
        plan(Config(server=Server(learning_rate=rate)), 0, (), scores_only=False, open_=False)
        for rate in (0.1, 1.0)
    ]
    assert plans[0] == plans[1]
