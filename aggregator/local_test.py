"""Federated evaluation: what the nodes' own scores of a version say together. Pure.

The *local test* is each node's score on samples that it holds out; the *global test* is the
aggregator's on its test set. They answer different questions and are never mixed.
"""

from collections.abc import Iterable

from aggregator.config import Limits
from shared.messages import Offer


def summary(offers: Iterable[Offer], limits: Limits) -> dict[str, float] | None:
    """Accuracy and loss, weighted by held-out samples, with the range over the nodes; None without
    scores.

    A node's word is bounded like its weight: no score outside 0..1, no more than `max_samples`.
    """
    scores = [score for offer in offers if (score := _score(offer, limits)) is not None]
    total = sum(samples for _, _, samples in scores)
    if not total:
        return None
    return {
        "accuracy": sum(accuracy * samples for accuracy, _, samples in scores) / total,
        "loss": sum(loss * samples for _, loss, samples in scores) / total,
        "samples": total,
        "nodes": len(scores),
        "lowest": min(accuracy for accuracy, _, _ in scores),
        "highest": max(accuracy for accuracy, _, _ in scores),
    }


def _score(offer: Offer, limits: Limits) -> tuple[float, float, int] | None:
    """Accuracy, loss and held-out samples of one node, if they can be true."""
    metrics = offer.metrics
    accuracy = metrics.get("local_test_accuracy", -1.0)
    loss = metrics.get("local_test_loss", -1.0)
    samples = metrics.get("local_test_samples", 0.0)
    if not (0 <= accuracy <= 1 and 0 <= loss <= _HIGHEST_LOSS and samples >= 1):
        return None
    return accuracy, loss, int(min(samples, limits.max_samples))


_HIGHEST_LOSS = 1e6
"""Far above any cross entropy; it keeps a sum of them finite."""
