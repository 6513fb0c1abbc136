import threading
from dataclasses import replace
from queue import SimpleQueue

import numpy as np
import pytest

from aggregator.config import Config
from aggregator.evaluation import Evaluator, evaluate, global_test
from aggregator.events import Evaluate, Evaluated, EvaluationFailed
from shared.errors import ConfigError
from shared.tasks import Data, Score, Task, find

NULL = find("null:4")
DATA = NULL.load("test", None)
JOB = Evaluate(7, NULL.initial(0))


def scoring(result: Score | Exception) -> Task:
    def score(*_: object) -> Score:
        if isinstance(result, Exception):
            raise result
        return result

    return replace(NULL, score=score)


def test_a_score_names_its_version() -> None:
    assert evaluate(scoring(Score(0.5, 1.5)), DATA, JOB) == Evaluated(7, 0.5, 1.5)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (scoring(Score(0.1, float("nan"))), "the loss is NaN or infinite"),
        (scoring(ConfigError("this task needs torch")), "this task needs torch"),
        (scoring(ValueError("another model")), "ValueError: another model"),
        (scoring(MemoryError()), "not enough memory: use a smaller batch or fewer samples"),
    ],
)
def test_what_goes_wrong_is_one_line(task: Task, reason: str) -> None:
    assert evaluate(task, DATA, JOB) == EvaluationFailed(7, reason)


def test_no_samples_no_score() -> None:
    empty = DATA.take(np.empty(0, np.int64))
    assert evaluate(NULL, empty, JOB) == EvaluationFailed(7, "there are no test samples")


def test_models_are_scored_in_turn_and_data_loaded_once() -> None:
    inbox: SimpleQueue[Evaluated | EvaluationFailed] = SimpleQueue()
    threads: list[str] = []

    def load() -> Data:
        threads.append(threading.current_thread().name)
        if len(threads) == 1:
            raise ConfigError("no MNIST data")
        return DATA

    evaluator = Evaluator(NULL, load, inbox.put)
    assert threads == []
    for version in range(4):
        evaluator.start(replace(JOB, version=version))
    events = [inbox.get(timeout=5) for _ in range(4)]
    evaluator.close()
    assert events[0] == EvaluationFailed(0, "no MNIST data")
    assert [event.version for event in events] == [0, 1, 2, 3]
    assert all(isinstance(event, Evaluated) for event in events[1:])
    assert len(threads) == 2
    assert threading.current_thread().name not in threads


def test_closing_finishes_the_model_at_hand_only() -> None:
    inbox: SimpleQueue[Evaluated | EvaluationFailed] = SimpleQueue()
    began, go_on = threading.Event(), threading.Event()

    def load() -> Data:
        began.set()
        go_on.wait(5)
        return DATA

    evaluator = Evaluator(NULL, load, inbox.put)
    evaluator.start(JOB)
    evaluator.start(replace(JOB, version=8))
    assert began.wait(5)
    threading.Timer(0.05, go_on.set).start()
    evaluator.close()
    assert inbox.get_nowait().version == 7
    assert inbox.empty()


def test_the_test_may_be_on_so_many_of_each_label_in_their_order() -> None:
    x = np.arange(8, dtype=np.float32)[:, None]
    data = Data(x, np.array([0, 0, 1, 0, 1, 2, 0, 2]))
    task = replace(find("null"), load=lambda _split, _folder: data)
    whole = global_test(task, Config(task="null"))
    assert whole.x.ravel().tolist() == list(range(8))
    some = global_test(task, Config(task="null", test_per_label=2))
    assert some.x.ravel().tolist() == [0, 1, 2, 4, 5, 7]
    nothing = replace(task, load=lambda _split, _folder: data.take(np.empty(0, np.int64)))
    assert len(global_test(nothing, Config(task="null", test_per_label=2))) == 0
