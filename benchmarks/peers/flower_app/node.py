"""Flower's ClientApp: trains on its node's shard, or only answers when the task is `null`.

An importable module whose data stays in the worker process: Flower pickles the functions by name,
and a worker loads a shard once and not once a message.
"""

import functools

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def train(message: Message, context: Context) -> Message:
    """One node's round."""
    arrays = message.content["arrays"].to_numpy_ndarrays()
    config = message.content["config"]
    if config["task"] == "null":
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


def _trained(arrays, index):
    import torch  # a process that trains nothing is spared it
    from torch.nn.functional import cross_entropy

    from benchmarks.peers import work

    module = _module()
    work.put(module, arrays)
    settings = work.SETTINGS
    optimizer = torch.optim.SGD(
        module.parameters(), settings["learning_rate"], settings["momentum"], fused=True
    )
    x, y = work.shard(index)
    size = settings["batch_size"]
    for _ in range(settings["epochs"]):
        order = torch.randperm(len(x))
        for start in range(0, len(x), size):
            batch = order[start : start + size]
            optimizer.zero_grad()
            cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
    return [parameter.detach().numpy() for parameter in module.parameters()], len(x)


@functools.cache
def _module():
    from benchmarks.peers import work

    return work.net()
