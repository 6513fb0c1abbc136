"""The network `net2nn`: two hidden layers of 200 with ReLU (McMahan et al. 2017: 2NN)."""

from collections import OrderedDict

from torch import nn


def net2nn(inputs: int, classes: int) -> nn.Module:
    """(n, ...) with `inputs` numbers a sample -> logits (n, classes); 199,210 weights for MNIST."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden1=nn.Linear(inputs, 200),
            relu1=nn.ReLU(),
            hidden2=nn.Linear(200, 200),
            relu2=nn.ReLU(),
            output=nn.Linear(200, classes),
        )
    )
