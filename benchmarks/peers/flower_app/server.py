"""Flower's ServerApp: its FedAvg, which notes when each round ended; nobody evaluates meanwhile."""

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.peers import work

app = ServerApp()


def main(grid: Grid, context: Context) -> None:  # noqa: ARG001 - Flower's
    """Run all rounds, then score the model."""
    settings = work.SETTINGS
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=settings["nodes"],
        min_available_nodes=settings["nodes"],
    )
    result = strategy.start(
        grid,
        ArrayRecord(numpy_ndarrays=work.first_model()),
        num_rounds=settings["rounds"],
        train_config=ConfigRecord({"task": settings["task"]}),
        evaluate_fn=lambda number, _: work.mark(number),
    )
    accuracy = 0.0
    if settings["task"] != "null":
        module = work.net()
        work.put(module, result.arrays.to_numpy_ndarrays())
        accuracy = work.accuracy(module)
    work.mark(settings["rounds"] + 1, accuracy=accuracy)


app.main()(main)
