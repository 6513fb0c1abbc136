"""Flower's ServerApp: its FedAvg, which notes when each round ended; nobody evaluates meanwhile."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.peers import given

app = ServerApp()


def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's
    """Run all rounds, then score the model."""
    settings = given.SETTINGS
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=settings["nodes"],
        min_available_nodes=settings["nodes"],
    )
    result = strategy.start(
        grid,
        ArrayRecord(numpy_ndarrays=given.first_model()),
        num_rounds=settings["rounds"],
        evaluate_fn=lambda number, _: given.mark(number),
    )
    scores = {}
    if settings["task"] != "null":
        from benchmarks.peers import learning  # it needs torch, and `null` does not

        module = learning.net()
        learning.put(module, result.arrays.to_numpy_ndarrays())
        scores["accuracy"] = learning.accuracy(module)
    given.mark(settings["rounds"] + 1, **scores)


app.main()(main)
