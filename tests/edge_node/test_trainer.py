import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue

import numpy as np
import numpy.typing as npt
import pytest

from edge_node.events import Train, Trained, TrainingFailed
from edge_node.samples import Samples
from edge_node.trainer import Trainer, local_update
from shared.errors import ConfigError
from shared.messages import Plan
from shared.params import Params, from_tensors
from shared.tasks import Data, Task, find

PLAN = Plan("null:4", 0, 1, 64, 0.1, 0.0, "none", b"", 1.0)
NULL = find("null:4")
DATA = NULL.load("test", None)
JOB = Train(1, NULL.initial(0), PLAN)


def never() -> bool:
    return False


def returning(values: npt.ArrayLike, **metrics: float) -> Task:
    def train(*_: object) -> tuple[Params, dict[str, float]]:
        return from_tensors({"null": values}), metrics

    return replace(NULL, train=train)


def raising(error: Exception) -> Task:
    def train(*_: object) -> None:
        raise error

    return replace(NULL, train=train)


def test_an_update_is_what_was_added_to_the_base() -> None:
    task = returning(JOB.base.flat + np.array([0, 1, 2, -3], np.float32), train_loss=0.5)
    event = local_update(task, Samples(DATA), "a", JOB, never)
    assert isinstance(event, Trained)
    assert event.round == 1
    assert event.samples == len(DATA)
    assert event.delta.flat == pytest.approx([0, 1, 2, -3], abs=1e-6)
    assert event.metrics["train_loss"] == 0.5
    assert event.metrics["train_s"] >= 0


def test_randomness_comes_from_seed_node_and_round() -> None:
    def digest(node: str, job: Train) -> bytes:
        event = local_update(NULL, Samples(DATA), node, job, never)
        assert isinstance(event, Trained)
        return event.delta.digest

    other_seed = replace(JOB, plan=replace(PLAN, seed=1))
    jobs = [("a", JOB), ("b", JOB), ("a", replace(JOB, round=2)), ("a", other_seed)]
    first = [digest(*job) for job in jobs]
    assert len(set(first)) == 4
    assert first == [digest(*job) for job in jobs]


@pytest.mark.parametrize(
    "task",
    [
        returning([1, np.nan, 1, 1], train_loss=1.0),
        returning([1, np.inf, 1, 1], train_loss=1.0),
        returning([1, 1, 1, 1], train_loss=np.nan),
    ],
)
def test_what_diverged_is_not_sent(task: Task) -> None:
    event = local_update(task, Samples(DATA), "a", JOB, never)
    assert isinstance(event, TrainingFailed)
    assert "lower the learning rate (now 0.1)" in event.reason


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (raising(MemoryError()), "not enough memory"),
        (raising(ConfigError("this task needs torch")), "this task needs torch"),
        (raising(KeyError("x")), "KeyError: 'x'"),
        (returning([1.0]), "ValueError: the two parameter sets"),
    ],
)
def test_whatever_goes_wrong_is_one_line(task: Task, reason: str) -> None:
    event = local_update(task, Samples(DATA), "a", JOB, never)
    assert isinstance(event, TrainingFailed)
    assert event.round == 1
    assert event.reason.startswith(reason)


def test_a_node_scores_the_base_on_what_it_holds_out() -> None:
    task = returning(JOB.base.flat + np.array([0, 1, 2, -3], np.float32), train_loss=0.5)
    asked = replace(JOB, plan=replace(PLAN, score=True))
    held_out = DATA.take(np.arange(7))
    event = local_update(task, Samples(DATA, held_out), "a", asked, never)
    assert isinstance(event, Trained)
    score = task.score(JOB.base, held_out)
    assert event.metrics["local_test_accuracy"] == score.accuracy
    assert event.metrics["local_test_loss"] == score.loss
    assert event.metrics["local_test_samples"] == 7
    assert event.metrics["train_loss"] == 0.5
    for samples, job in ((Samples(DATA), asked), (Samples(DATA, held_out), JOB)):
        quiet = local_update(task, samples, "a", job, never)
        assert isinstance(quiet, Trained)
        assert not [name for name in quiet.metrics if name.startswith("local_test")]


def test_a_round_for_scores_alone_trains_nothing() -> None:
    asked = replace(JOB, plan=replace(PLAN, score=True, epochs=0))
    samples = Samples(DATA, DATA.take(np.arange(7)))
    event = local_update(raising(AssertionError("trained")), samples, "a", asked, never)
    assert isinstance(event, Trained)
    assert not event.delta.flat.any()
    assert event.metrics["local_test_samples"] == 7


def test_a_node_without_samples_says_so() -> None:
    event = local_update(NULL, Samples(DATA.take(np.empty(0, np.int64))), "a", JOB, never)
    assert event == TrainingFailed(1, "this node holds no samples")


def test_a_learning_rate_far_too_high_is_told_apart() -> None:
    task = find("mnist")
    rng = np.random.default_rng(0)
    data = Data(rng.integers(0, 256, (64, 28, 28), dtype=np.uint8), rng.integers(0, 10, 64))
    plan = replace(PLAN, learning_rate=1e6, batch_size=4, epochs=2)
    event = local_update(task, Samples(data), "a", Train(0, task.initial(0), plan), never)
    assert isinstance(event, TrainingFailed)
    assert "diverged" in event.reason


Inbox = SimpleQueue[Trained | TrainingFailed]


class Slow:
    """A task whose training takes as long as the test wants."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.task = replace(NULL, train=self.train)

    def train(
        self, params: Params, _: Data, __: Plan, ___: object, stopped: Callable[[], bool]
    ) -> tuple[Params, dict[str, float]] | None:
        self.began.release()
        while not self.go_on.wait(0.001):
            if stopped():
                return None
        return params, {}


@pytest.fixture
def inbox() -> Inbox:
    return SimpleQueue()


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def trainer(slow: Slow, inbox: Inbox) -> Iterator[Trainer]:
    trainer = Trainer("a", lambda: slow.task, lambda _: Samples(DATA), inbox.put)
    yield trainer
    trainer.close()


def test_every_job_that_ran_to_its_end_delivers_one_event(
    trainer: Trainer, slow: Slow, inbox: Inbox
) -> None:
    slow.go_on.set()
    for number in range(3):
        trainer.start(replace(JOB, round=number))
        assert inbox.get(timeout=5).round == number
    assert inbox.empty()


def test_a_new_job_stops_the_one_that_runs(trainer: Trainer, slow: Slow, inbox: Inbox) -> None:
    trainer.start(replace(JOB, round=1))
    assert slow.began.acquire(timeout=5)
    trainer.start(replace(JOB, round=2))
    assert slow.began.acquire(timeout=5)
    slow.go_on.set()
    assert inbox.get(timeout=5).round == 2
    trainer.close()
    assert inbox.empty()


def test_a_stopped_job_delivers_nothing(trainer: Trainer, slow: Slow, inbox: Inbox) -> None:
    trainer.start(JOB)
    assert slow.began.acquire(timeout=5)
    trainer.stop()
    trainer.close()
    with pytest.raises(Empty):
        inbox.get_nowait()


def test_one_that_ends_although_it_was_stopped_delivers_nothing(inbox: Inbox) -> None:
    began, go_on = threading.Event(), threading.Event()

    def deaf(params: Params, *_: object) -> tuple[Params, dict[str, float]]:
        began.set()
        go_on.wait(5)
        return params, {}

    trainer = Trainer("a", lambda: replace(NULL, train=deaf), lambda _: Samples(DATA), inbox.put)
    trainer.start(JOB)
    assert began.wait(5)
    trainer.stop()
    go_on.set()
    trainer.close()
    assert inbox.empty()


def test_the_samples_are_loaded_once_in_the_thread_and_again_after_a_failure(inbox: Inbox) -> None:
    threads: list[str] = []

    def samples(_: Task) -> Samples:
        threads.append(threading.current_thread().name)
        if len(threads) == 1:
            raise ConfigError("no MNIST data: set MIDGE_DATA")
        return Samples(DATA)

    trainer = Trainer("a", lambda: NULL, samples, inbox.put)
    assert threads == []
    trainer.start(JOB)
    assert inbox.get(timeout=5) == TrainingFailed(1, "no MNIST data: set MIDGE_DATA")
    for _ in range(2):
        trainer.start(JOB)
        assert isinstance(inbox.get(timeout=5), Trained)
    trainer.close()
    assert len(threads) == 2
    assert threading.current_thread().name not in threads


def test_threads_and_plain_calls_agree_bit_for_bit(inbox: Inbox) -> None:
    task = find("digits")
    data = task.load("test", None)
    job = Train(3, task.initial(0), replace(PLAN, epochs=2, batch_size=32, momentum=0.5))
    trainer = Trainer("node-1", lambda: task, lambda _: Samples(data), inbox.put)
    trainer.start(job)
    threaded = inbox.get(timeout=60)
    trainer.close()
    plain = local_update(task, Samples(data), "node-1", job, never)
    assert isinstance(threaded, Trained)
    assert isinstance(plain, Trained)
    assert threaded.delta.digest == plain.delta.digest
