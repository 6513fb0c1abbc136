import numpy as np
import pytest

from midge.laboratory.shares import bytes_to_reach, grid, shares
from midge.laboratory.story import Story, story


def told(*versions: tuple[dict[str, int], dict[str, str]]) -> Story:
    """Versions 1, 2, ... from (samples by node, reason by missing node)."""
    entries: list[object] = [
        {
            "event": "version",
            "version": number,
            "bytes_up": 10,
            "bytes_down": 3,
            "missing": missing,
            "counted": [
                {
                    "node": node,
                    "weight": samples,
                    "metrics": {
                        "train_s": float(number),
                        "bytes_down": -5.0 if node == "liar" else 3.0,
                        "local_test_accuracy": number / 10,
                    },
                }
                for node, samples in counted.items()
            ],
        }
        for number, (counted, missing) in enumerate(versions, 1)
    ]
    scores = [
        {"event": "evaluated", "version": number, "test_accuracy": number / 4}
        for number in range(1, len(versions) + 1)
    ]
    return story([*entries, *scores, {"event": "refused", "node": "late", "reason": "late"}])


def test_each_node_gets_its_share() -> None:
    found = {
        one.node: one
        for one in shares(
            told(({"a": 10, "b": 30}, {}), ({"a": 10}, {"b": "gone"}), ({}, {"b": "training"}))
        )
    }
    a, b, late = found["a"], found["b"], found["late"]
    assert (a.versions, a.samples, a.train_s, a.bytes_down) == (2, 20, 1.5, 6.0)
    assert (b.versions, b.samples, b.missing) == (1, 30, {"gone": 1, "training": 1})
    assert (a.local_accuracy, b.local_accuracy) == (0.2, 0.1)
    assert (late.versions, late.refused, late.train_s) == (0, 1, None)


def test_most_samples_come_first_then_the_name() -> None:
    found = shares(told(({"c": 5, "b": 5, "a": 1}, {})))
    assert [one.node for one in found] == ["b", "c", "a", "late"]


def test_nobody_received_less_than_nothing() -> None:
    assert shares(told(({"liar": 1}, {})))[0].bytes_down == 0


def test_the_grid_tells_counted_from_missing_from_not_asked() -> None:
    samples, missing, firsts = grid(
        told(({"a": 10}, {"b": "gone"}), ({"b": 7}, {})), ["b", "a"], most_columns=5
    )
    assert firsts == [1, 2]
    np.testing.assert_array_equal(samples, [[np.nan, 7], [10, np.nan]])
    np.testing.assert_array_equal(missing, [[True, False], [False, False]])


def test_versions_share_a_column_when_there_are_too_many() -> None:
    run = told(*[({"a": 10 * n}, {"b": "gone"}) for n in (1, 3, 5)])
    samples, missing, firsts = grid(run, ["a", "b"], most_columns=2)
    assert firsts == [1, 3]
    np.testing.assert_array_equal(samples[0], [20, 50])
    assert missing[1].all()


def test_a_run_without_versions_has_no_columns() -> None:
    samples, _, firsts = grid(story([]), ["a"], most_columns=2)
    assert samples.shape == (1, 0)
    assert firsts == []


@pytest.mark.parametrize(
    ("target", "cost"), [(0.2, (1, 10, 3)), (0.5, (2, 20, 6)), (0.75, (3, 30, 9)), (0.9, None)]
)
def test_an_accuracy_costs_all_bytes_until_it_is_reached(
    target: float, cost: tuple[int, int, int] | None
) -> None:
    assert bytes_to_reach(told(*[({"a": 1}, {})] * 3), target) == cost
