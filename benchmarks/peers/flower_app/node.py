"""Flower's ClientApp: trains on its node's shard, or only answers when the task is `null`.

An importable module whose data stays in the worker process: Flower pickles the functions by name,
and a worker loads a shard once and not once a message.
"""

import functools
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.peers.given import SETTINGS, Arrays

if TYPE_CHECKING:
    from torch import nn

app = ClientApp()


def train(message: Message, context: Context) -> Message:
    """One node's round."""
    arrays = message.content["arrays"].to_numpy_ndarrays()
    if SETTINGS["task"] == "null":
        after = [array + np.float32(0.001) for array in arrays]
        count = 1
    else:
        after, count = _trained(arrays, int(context.node_config["partition-id"]))
    content = RecordDict(
        {
            "arrays": ArrayRecord(numpy_ndarrays=after),
            "metrics": MetricRecord({"num-examples": count}),
        }
    )
    return Message(content=content, reply_to=message)


app.train()(train)


def _trained(arrays: Arrays, index: int) -> tuple[Arrays, int]:
    """The parameters after one node's epochs, and how many samples it has."""
    import torch  # a process that trains nothing is spared it
    from torch.nn.functional import cross_entropy

    from benchmarks.peers import learning

    module = _module()
    learning.put(module, arrays)
    optimizer = torch.optim.SGD(
        module.parameters(), SETTINGS["learning_rate"], SETTINGS["momentum"], fused=True
    )
    x, y = learning.shard(index)
    for _ in range(SETTINGS["epochs"]):
        for batch in torch.randperm(len(x)).split(SETTINGS["batch_size"]):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            cross_entropy(module(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return [parameter.detach().numpy() for parameter in module.parameters()], len(x)


@functools.cache
def _module() -> "nn.Module":
    from benchmarks.peers import learning

    return learning.net()
