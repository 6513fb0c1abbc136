"""pfl's simulation: its FederatedAveraging over its SimulatedBackend, on tensors in memory.

Several processes share the users as pfl's guide says: PFL_WORKER_ADDRESSES and PFL_WORKER_RANK.
"""

import os

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.peers import given, learning

FIRST = os.environ.get("PFL_WORKER_RANK", "0") == "0"
"""One of several processes keeps the note."""


class Learnt(nn.Module):
    """The network with the two methods that pfl asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.net = learning.net()
        learning.put(self.net, given.first_model())

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy of a batch."""
        return cross_entropy(self.net(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
        """pfl wants it; nothing is scored while rounds are timed."""
        return {"loss": Weighted(self.loss(x, y).item() * len(x), len(x))}


class Marks(TrainingProcessCallback):  # type: ignore[misc] # pfl is not installed here
    """Notes when each round ended."""

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:  # noqa: ARG002 - pfl's
        """Round 0 is over."""
        if FIRST:
            given.mark(0)
        return Metrics()

    def after_central_iteration(
        self,
        aggregate_metrics: Metrics,  # noqa: ARG002 - pfl's
        model: PyTorchModel,  # noqa: ARG002 - pfl's
        *,
        central_iteration: int,
    ) -> tuple[bool, Metrics]:
        """A round is over."""
        if FIRST:
            given.mark(central_iteration + 1)
        return False, Metrics()


def main() -> None:
    """Run all rounds, then score the model."""
    np.random.seed(1)  # noqa: NPY002 - the generator that pfl draws from
    settings = given.SETTINGS
    users = [PyTorchTensorDataset(learning.shard(index)) for index in range(settings["nodes"])]
    sampler = get_user_sampler("minimize_reuse", list(range(settings["nodes"])))
    data = FederatedDataset(users.__getitem__, sampler)
    module = Learnt()
    model = PyTorchModel(
        module,
        lambda parameters, lr: torch.optim.SGD(parameters, lr, settings["momentum"], fused=True),
        torch.optim.SGD(module.parameters(), 1.0),
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=settings["rounds"],
            evaluation_frequency=settings["rounds"] + 1,
            train_cohort_size=settings["nodes"],
            val_cohort_size=0,
        ),
        SimulatedBackend(data, data),
        model,
        NNTrainHyperParams(
            local_num_epochs=settings["epochs"],
            local_learning_rate=settings["learning_rate"],
            local_batch_size=settings["batch_size"],
        ),
        callbacks=[Marks()],
        send_metrics_to_platform=False,
    )
    if FIRST:
        given.mark(settings["rounds"] + 1, accuracy=learning.accuracy(module.net))


if __name__ == "__main__":
    main()
