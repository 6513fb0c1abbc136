from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from midge.laboratory.story import GlobalTest, LocalTest, story


def version(number: int, **more: object) -> dict[str, object]:
    entry: dict[str, object] = {
        "time": float(number),
        "event": "version",
        "round": number,
        "version": number,
        "seconds": 0.5,
        "bytes_up": 100,
        "bytes_down": 200,
        "counted": [
            {
                "node": "a",
                "weight": 30,
                "base_version": number - 1,
                "metrics": {"train_s": 1.5, "bytes_down": 200.0},
            }
        ],
        "missing": {},
        "closed_by": "goal",
        "model_sha256": f"model {number}",
        "ledger_sha256": f"ledger {number}",
    }
    return {**entry, **more}


def evaluated(number: int, accuracy: float) -> dict[str, object]:
    return {"event": "evaluated", "version": number, "test_accuracy": accuracy, "test_loss": 1.0}


def started(number: int, boot: int) -> dict[str, object]:
    return {"event": "started", "version": number, "round": 9, "task": "t", "seed": 4, "boot": boot}


def test_a_whole_run_is_told() -> None:
    told = story(
        [
            {"time": 5.0, **started(0, 1)},
            {"event": "round", "round": 1, "version": 0, "cohort": ["a", "b"], "carried": ["c"]},
            version(1, missing={"b": "gone"}),
            evaluated(1, 0.5),
            version(2),
            {"time": 9.0, "event": "finished", "version": 2},
        ]
    )
    assert (told.task, told.seed, told.ended, told.entries, told.odd) == ("t", 4, "finished", 6, 0)
    assert (told.begun_s, told.told_s) == (5.0, 9.0)
    assert told.nodes == {"a", "b", "c"}
    assert list(told.versions) == [1, 2]
    assert told.last is not None
    assert told.last.ledger_sha256 == "ledger 2"
    assert told.global_test == {1: GlobalTest(0.5, 1.0)}
    part = told.versions[1].parts[0]
    assert (part.node, part.samples, part.staleness, part.train_s) == ("a", 30, 0, 1.5)


def test_local_and_global_test_are_kept_apart() -> None:
    told = story(
        [
            evaluated(3, 0.5),
            {
                "event": "local_test",
                "version": 3,
                "accuracy": 0.9,
                "loss": 0.3,
                "samples": 70,
                "nodes": 2,
                "lowest": 0.8,
                "highest": 0.95,
            },
            version(4, counted=[{"node": "a", "metrics": {"local_test_accuracy": 0.8}}]),
        ]
    )
    assert told.global_test == {3: GlobalTest(0.5, 1.0)}
    assert told.local_test == {3: LocalTest(0.9, 0.3, 70, 2, 0.8, 0.95)}
    assert told.versions[4].parts[0].local_accuracy == 0.8


def test_a_local_test_without_its_range_has_none() -> None:
    told = story([{"event": "local_test", "version": 1, "accuracy": 0.9}])
    assert told.local_test == {1: LocalTest(0.9, None, None, None, 0.9, 0.9)}


def test_staleness_counts_the_versions_in_between() -> None:
    told = story([version(7, counted=[{"node": "a", "base_version": 4}, {"node": "b"}])])
    assert [part.staleness for part in told.versions[7].parts] == [2, None]


def test_of_a_version_that_was_made_again_the_last_telling_counts() -> None:
    told = story(
        [
            version(1),
            version(2, ledger_sha256="old"),
            evaluated(1, 0.3),
            evaluated(2, 0.9),
            version(3),
            {"event": "corrupt_checkpoint", "problem": "checksum", "using": "version 1"},
            started(1, 2),
            version(2, ledger_sha256="new"),
        ]
    )
    assert list(told.versions) == [1, 2]
    assert told.versions[2].ledger_sha256 == "new"
    assert told.global_test == {1: GlobalTest(0.3, 1.0)}
    found = {one.what: (one.times, one.reason) for one in told.incidents.values()}
    assert found == {
        "a checkpoint was damaged": (1, "checksum; went on with version 1"),
        "the aggregator was started again": (1, ""),
        "a version was lost and made again": (2, ""),
    }


def test_a_run_that_goes_on_after_its_stop_has_not_ended() -> None:
    stopped: list[dict[str, object]] = [started(0, 1), {"event": "stopped", "version": 0}]
    assert story(stopped).ended == "stopped"
    assert not story([*stopped, started(0, 2)]).ended


def test_reasons_that_differ_in_numbers_are_one_kind() -> None:
    told = story(
        [
            {"event": "refused", "node": node, "round": n, "reason": f"late: version {n} is out"}
            for n, node in ((8, "a"), (9, "b"), (10, "a"))
        ]
    )
    (one,) = told.incidents.values()
    assert (one.times, one.varied, one.reason) == (3, True, "late: version 8 is out")
    assert (one.nodes["a"], one.rounds) == (2, [8, 9, 10])
    assert told.refused == {"a": 2, "b": 1}
    assert told.nodes == {"a", "b"}


def test_every_kind_of_trouble_is_told() -> None:
    told = story(
        [
            {"event": "stand_in", "node": "c", "place_of": "a", "round": 1},
            {"event": "carried_over", "round": 2, "reason": "1 updates at the deadline"},
            {"event": "evaluation_failed", "version": 1, "reason": "no test samples"},
            version(1, missing={"a": "gone"}, unreadable=3),
        ]
    )
    found = {(one.what, one.reason): one.times for one in told.incidents.values()}
    assert found == {
        ("a late node took a place", "that of a"): 1,
        ("a round ended without a version", "1 updates at the deadline"): 1,
        ("the global test failed", "no test samples"): 1,
        ("a version closed without a node", "gone"): 1,
        ("a message could not be used", ""): 3,
    }


def test_odd_values_are_left_out() -> None:
    told = story(
        [
            7,
            {"no": "event"},
            {"event": ["list"]},
            {"event": "version", "version": "x"},
            evaluated(1, float("nan")),
            {"time": 10**400, "event": "version", "version": 2, "counted": 3, "missing": ["a"]},
            version(3, counted=[{"node": 5, "weight": -1, "metrics": {"train_s": "long"}}, 8]),
        ]
    )
    assert told.odd == 4
    assert not told.global_test
    assert told.versions[2].parts == []
    (part,) = told.versions[3].parts
    assert (part.node, part.samples, part.train_s) == ("?", 0, None)
    assert told.begun_s == 3.0


_NAMES = st.sampled_from(
    [
        *("time", "version", "round", "task", "seed", "boot", "cohort", "carried", "counted"),
        *("missing", "reason", "node", "metrics", "weight", "base_version", "test_accuracy"),
        *("test_loss", "accuracy", "lowest", "place_of", "problem", "bytes_up", "seconds"),
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_NAMES | st.text(max_size=3), inner)
    ),
    max_leaves=8,
)
_EVENTS = st.sampled_from(
    [
        *("started", "round", "version", "evaluated", "local_test", "refused", "carried_over"),
        *("stand_in", "corrupt_checkpoint", "evaluation_failed", "stopped", "finished", "other"),
    ]
)


@given(st.lists(st.tuples(_EVENTS, st.dictionaries(_NAMES, _JSON, max_size=6)), max_size=6))
def test_any_journal_is_told(entries: list[tuple[str, dict[str, Any]]]) -> None:
    told = story([{**entry, "event": event} for event, entry in entries])
    assert told.entries == len(entries)
    assert list(told.versions) == sorted(told.versions)
    assert all(part.node in told.nodes for one in told.versions.values() for part in one.parts)
