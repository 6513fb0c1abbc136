"""The network `net2nn`: two hidden layers of 200 with ReLU (McMahan et al. 2017: 2NN)."""

from collections import OrderedDict

import torch
from torch import nn


class Standardise(nn.Module):
    """(x - mean) / deviation, with two numbers that everybody knows beforehand."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self._mean = mean
        self._deviation = deviation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape -> the same shape."""
        return (x - self._mean) / self._deviation


def net2nn(inputs: int, classes: int, first: nn.Module | None = None) -> nn.Module:
    """(n, ...) with `inputs` numbers a sample -> logits (n, classes); 199,210 weights for MNIST.

    `first` is what the samples pass through before all else, without weights of its own.
    """
    return nn.Sequential(
        OrderedDict(
            first=first or nn.Identity(),
            flatten=nn.Flatten(),
            hidden1=nn.Linear(inputs, 200),
            relu1=nn.ReLU(),
            hidden2=nn.Linear(200, 200),
            relu2=nn.ReLU(),
            output=nn.Linear(200, classes),
        )
    )
