import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from shared.messages import Plan
from shared.params import Params, from_tensors
from shared.tasks import Data, sgd

PLAN = Plan(
    task="any",
    seed=0,
    epochs=2,
    batch_size=16,
    learning_rate=0.1,
    momentum=0.9,
    compression="none",
    cohort=b"",
    deadline_s=60.0,
)

Model = Callable[[], nn.Module]


def plain() -> nn.Module:
    """Odd sizes, so that the vector units have a remainder to work on."""
    return nn.Sequential(nn.Flatten(), nn.Linear(15, 37), nn.ReLU(), nn.Linear(37, 3))


def fancy() -> nn.Module:
    """Everything that makes randomness and state: dropout, batch norm, a frozen layer."""
    frozen = nn.Linear(15, 15)
    frozen.requires_grad_(requires_grad=False)
    return nn.Sequential(
        nn.Flatten(), frozen, nn.Linear(15, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
    )


@pytest.fixture
def data() -> Data:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 100)
    x = rng.integers(0, 200, (100, 3, 5), dtype=np.uint8)
    x[:, 0, 0] = y * 100
    return Data(x, y)


def run(data: Data, plan: Plan = PLAN, model: Model = plain) -> tuple[Params, dict[str, float]]:
    params = sgd.initial(model, 5)
    outcome = sgd.train(model, 255, params, data, plan, np.random.default_rng(3), lambda: False)
    assert outcome is not None
    return outcome


def reference(data: Data, model: Model, plan: Plan) -> Params:
    """What anybody would write with torch.optim."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(3)
    torch.manual_seed(5)
    module = model()
    torch.manual_seed(int(rng.integers(2**63)))
    model()  # training makes its module from the same generator
    optimizer = torch.optim.SGD(
        module.parameters(), plan.learning_rate, plan.momentum, weight_decay=plan.weight_decay
    )
    x, y = torch.from_numpy(data.x) / 255, torch.from_numpy(data.y)
    seen = nn.Dropout(plan.input_dropout) if plan.input_dropout else nn.Identity()
    for _ in range(plan.epochs):
        order = torch.from_numpy(rng.permutation(len(y)))
        for batch in torch.split(order, plan.batch_size or len(y)):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(seen(x[batch])), y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    floats = {name: t for name, t in module.state_dict().items() if t.is_floating_point()}
    return from_tensors({name: t.numpy() for name, t in floats.items()})


@pytest.mark.parametrize("model", [plain, fancy])
@pytest.mark.parametrize("momentum", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("batch_size", [0, 7, 50])
def test_the_steps_are_those_of_torch_optim_bit_for_bit(
    data: Data, model: Model, momentum: float, batch_size: int
) -> None:
    plan = replace(PLAN, momentum=momentum, batch_size=batch_size)
    ours, _ = run(data, plan, model)
    theirs = reference(data, model, plan)
    assert ours.spec == theirs.spec
    assert ours.digest == theirs.digest


@pytest.mark.parametrize(("decay", "dropout"), [(0.01, 0.0), (0.0, 0.3), (0.01, 0.3)])
def test_so_they_are_with_weight_decay_and_dropout(
    data: Data, decay: float, dropout: float
) -> None:
    plan = replace(PLAN, weight_decay=decay, input_dropout=dropout)
    ours, _ = run(data, plan, fancy)
    assert ours.digest == reference(data, fancy, plan).digest
    assert ours.digest != run(data, PLAN, fancy)[0].digest


def test_pictures_are_moved_by_up_to_so_many_pixels() -> None:
    x = torch.zeros(500, 5, 7)
    x[:, 2, 3] = 1
    torch.manual_seed(0)
    moved = sgd._moved(x, 2)
    assert moved.shape == x.shape
    assert moved.sum((1, 2)).tolist() == [1.0] * 500
    _, rows, columns = torch.nonzero(moved, as_tuple=True)
    assert set(rows.tolist()) == {0, 1, 2, 3, 4}
    assert set(columns.tolist()) == {1, 2, 3, 4, 5}
    out = sgd._moved(torch.ones(200, 5, 7), 1)
    assert out.sum((1, 2)).min() == 4 * 6, "what is moved out is gone, what comes in is 0"


def test_moving_is_seeded_and_changes_the_result(data: Data) -> None:
    plan = replace(PLAN, input_shift=1)
    assert run(data, plan)[0].digest == run(data, plan)[0].digest
    assert run(data, plan)[0].digest != run(data)[0].digest


def test_what_is_no_picture_cannot_be_moved(data: Data) -> None:
    flat = Data(data.x.reshape(len(data), -1), data.y)
    with pytest.raises(ValueError, match=r"input_shift moves pictures \(n, height, width\), not"):
        run(flat, replace(PLAN, input_shift=1))


def test_the_result_does_not_depend_on_what_ran_before(data: Data) -> None:
    first, _ = run(data, model=fancy)
    torch.manual_seed(99)
    run(data)
    before = torch.random.get_rng_state()
    second, _ = run(data, model=fancy)
    assert first.digest == second.digest
    assert torch.equal(before, torch.random.get_rng_state())  # the user's own stream is untouched


def test_nor_on_the_layout_of_the_arrays(data: Data) -> None:
    kept, _ = run(data)
    room = np.zeros(data.x.size + 3, np.uint8)[3:]  # misaligned, and read-only like a mapped file
    room[:] = data.x.ravel()
    room.flags.writeable = False
    moved, _ = run(Data(room.reshape(data.x.shape), data.y))
    assert kept.digest == moved.digest


def test_metrics_speak_of_the_last_epoch(data: Data) -> None:
    _, metrics = run(data, replace(PLAN, epochs=10, batch_size=30))
    assert metrics["steps"] == 10 * 4
    assert metrics["train_accuracy"] > 0.9
    assert 0 < metrics["train_loss"] < 0.5


def test_no_epoch_no_change(data: Data) -> None:
    after, metrics = run(data, replace(PLAN, epochs=0))
    assert after.digest == sgd.initial(plain, 5).digest
    assert metrics == {"steps": 0}


def test_training_stops_between_two_steps(data: Data) -> None:
    answers = iter([False, False, True])
    params = sgd.initial(plain, 0)
    rng = np.random.default_rng(0)
    assert sgd.train(plain, 1, params, data, PLAN, rng, lambda: next(answers)) is None
    assert next(answers, None) is None


def test_the_parameters_given_are_left_alone(data: Data) -> None:
    params = sgd.initial(plain, 0)
    params.flat.flags.writeable = False
    before = params.digest
    rng = np.random.default_rng(0)
    assert sgd.train(plain, 1, params, data, PLAN, rng, lambda: False) is not None
    sgd.score(plain, 1, params, data)
    assert params.digest == before


def test_float_buffers_travel_and_counts_stay() -> None:
    names = [name for name, _ in sgd.initial(fancy, 0).spec.tensors]
    assert "3.running_mean" in names
    assert "3.running_var" in names
    assert "3.num_batches_tracked" not in names


def test_parameters_of_another_model_are_refused(data: Data) -> None:
    with pytest.raises(ValueError, match="another model"):
        sgd.score(plain, 1, sgd.initial(fancy, 0), data)


def test_the_score_by_hand() -> None:
    def doubled() -> nn.Module:
        return nn.Linear(2, 2, bias=False)

    params = from_tensors({"weight": 2 * np.eye(2)})
    x = np.tile(np.array([[1, 0], [0, 1], [1, 0]], np.float32), (800, 1))  # three passes' worth
    score = sgd.score(doubled, 1, params, Data(x, np.tile(np.array([0, 1, 1]), 800)))
    right, wrong = np.log(1 + np.exp(-2)), np.log(1 + np.exp(2))
    assert score.accuracy == pytest.approx(2 / 3)
    assert score.loss == pytest.approx((2 * right + wrong) / 3)

    # The divisor scales what comes in: 2 / 2 is the same as 1.
    assert sgd.score(doubled, 2, params, Data(2 * x, np.tile(np.array([0, 1, 1]), 800))) == score
    chances = sgd.predict(doubled, 1, params, np.array([[1, 0]], np.float32))
    assert chances[0] == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))])


def test_training_spares_a_node_the_compiler_of_torch() -> None:
    # torch.optim and torchvision both import it: 1.5 s and 70 MB that a small node can do without.
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from shared.tasks import Data, find\n"
        "from edge_node.events import Train\n"
        "from edge_node.samples import Samples\n"
        "from edge_node.trainer import local_update\n"
        "from shared.messages import Plan\n"
        "task = find('mnist')\n"
        "data = Data(np.zeros((9, 28, 28), np.uint8), np.arange(9))\n"
        "plan = Plan('mnist', 0, 1, 4, 0.1, 0.5, 'none', b'', 1.0)\n"
        "job = Train(0, task.initial(0), plan)\n"
        "print(local_update(task, Samples(data), 'a', job, lambda: False).samples)\n"
        "task.score(job.base, data)\n"
        "heavy = {'torch._dynamo', 'torchvision', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
