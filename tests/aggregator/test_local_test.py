from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config import Limits
from aggregator.local_test import summary
from shared.messages import Offer

Update = Callable[..., tuple[Offer, bytes]]


@pytest.fixture
def scored(update: Update) -> Callable[..., Offer]:
    def make(accuracy: float, loss: float, samples: float) -> Offer:
        metrics = {
            "local_test_accuracy": accuracy,
            "local_test_loss": loss,
            "local_test_samples": samples,
            "train_loss": 3.0,
        }
        return update(metrics=metrics)[0]

    return make


def test_scores_weigh_by_their_held_out_samples(
    scored: Callable[..., Offer], limits: Limits
) -> None:
    found = summary([scored(0.5, 2.0, 10), scored(1.0, 1.0, 30)], limits)
    assert found == {
        "accuracy": pytest.approx(0.875),
        "loss": pytest.approx(1.25),
        "samples": 40,
        "nodes": 2,
        "lowest": 0.5,
        "highest": 1.0,
    }


def test_without_scores_there_is_nothing_to_say(update: Update, limits: Limits) -> None:
    assert summary([], limits) is None
    assert summary([update()[0]], limits) is None


def test_no_node_claims_more_samples_than_its_updates_may(
    scored: Callable[..., Offer], limits: Limits
) -> None:
    found = summary([scored(1.0, 0.0, 1e300), scored(0.0, 0.0, limits.max_samples)], limits)
    assert found is not None
    assert found["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("accuracy", "loss", "samples"),
    [(1.1, 0.0, 1.0), (-0.1, 0.0, 1.0), (0.5, -1.0, 1.0), (0.5, 1e300, 1.0), (0.5, 0.0, 0.5)],
)
def test_what_cannot_be_true_is_left_out(
    scored: Callable[..., Offer], limits: Limits, accuracy: float, loss: float, samples: float
) -> None:
    assert summary([scored(accuracy, loss, samples)], limits) is None


FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(
    metrics=st.lists(
        st.fixed_dictionaries(
            {"local_test_accuracy": FINITE, "local_test_loss": FINITE, "local_test_samples": FINITE}
        )
    )
)
def test_whatever_nodes_say_the_summary_is_sane(metrics: list[dict[str, Any]]) -> None:
    offer = Offer("0" * 16, 1, 0, bytes(32), bytes(32), 1, 0, 5, bytes(32), "none", 1, {}, None)
    found = summary([replace(offer, metrics=one) for one in metrics], Limits())
    if found is not None:
        assert 0 <= found["lowest"] <= found["accuracy"] + 1e-9
        assert found["accuracy"] <= found["highest"] + 1e-9 <= 1 + 1e-9
        assert 1 <= found["nodes"] <= len(metrics)
