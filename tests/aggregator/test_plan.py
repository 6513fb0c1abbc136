import pytest

from aggregator.config import Training
from aggregator.plan import learning_rate


def test_the_learning_rate_falls_in_equal_steps_at_the_end() -> None:
    training = Training(learning_rate=0.4, last_rounds=3, last_rate_share=0.25)
    rates = [learning_rate(training, version, rounds=6) for version in range(8)]
    assert rates == pytest.approx([0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])
    assert learning_rate(Training(learning_rate=0.4), 5, rounds=6) == 0.4
    longer = training.model_copy(update={"last_rounds": 9})
    assert learning_rate(longer, 5, rounds=6) == pytest.approx(0.1)
    assert learning_rate(longer, 0, rounds=6) == pytest.approx(0.4 * (1 - 4 / 9 * 0.75))
