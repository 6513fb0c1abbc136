"""What a start cannot do without, in as few lines as it takes: peers of `benchmarks.cold_start`.

`python -m benchmarks.bare connect PORT`: paho, connected. `python -m benchmarks.bare step`: torch,
the network 784-200-200-10, one step of SGD on 64 pictures of noise. Each prints `ready` and waits.
"""

import sys


def connect(port: int) -> None:
    """Connect with paho and keep the connection."""
    import paho.mqtt.client as paho

    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_connect = lambda *_: print("ready", flush=True)
    client.connect("127.0.0.1", port)
    client.loop_forever()


def step() -> None:
    """Import torch and take one step."""
    import torch
    from torch import nn

    model = nn.Sequential(
        nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10)
    )
    loss = nn.functional.cross_entropy(model(torch.rand(64, 784)), torch.zeros(64, dtype=torch.long))
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():  # by hand: torch.optim takes another second to import
        for weights in model.parameters():
            weights -= 0.2 * weights.grad
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1] == "connect":
        connect(int(sys.argv[2]))
    else:
        step()
