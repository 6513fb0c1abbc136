import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.memory import matches
from shared.topics import DOCTOR, ROOT, RUN_NAME, TOPICS, Topics, Upward, is_wildcard

LETTERS = "ABCXYZabcxyz0123456789"
NODES = st.builds(str.__add__, st.sampled_from(LETTERS), st.text(LETTERS + "_.-", max_size=63))
RUN = Topics("my-run")
UP = "midge/v1/my-run/up/"
EXAMPLES = {
    "down/model": RUN.manifest,
    "down/model/{slot}/{i}": RUN.model_chunk(2, 17),
    "down/receipt/{node}": RUN.receipt("ann"),
    "up/{node}/offer": RUN.offer("ann"),
    "up/{node}/update/{i}": RUN.update("ann", 17),
    "up/{node}/state": RUN.state("ann"),
    "aggregator/state": RUN.aggregator_state,
    "aggregator/roster/{page}": RUN.roster(3),
    "events": RUN.events,
}


def test_every_topic_of_the_table_is_built_as_it_stands_there() -> None:
    values = {"slot": 2, "i": 17, "node": "ann", "page": 3}
    assert [rule.pattern for rule in TOPICS] == list(EXAMPLES)
    for rule in TOPICS:
        expected = f"midge/v1/my-run/{rule.pattern.format(**values)}"
        assert EXAMPLES[rule.pattern] == expected


def test_nodes_write_below_up_and_nowhere_else() -> None:
    for rule in TOPICS:
        assert (rule.writer == "node") == rule.pattern.startswith("up/{node}/")


def test_no_run_can_have_the_name_below_which_everybody_may_write() -> None:
    assert re.fullmatch(RUN_NAME, "doctor")
    assert not re.fullmatch(RUN_NAME, DOCTOR.removeprefix(f"{ROOT}/"))


@given(NODES, st.integers(0, 65535))
def test_what_a_node_writes_is_read_as_it_was_built(node: str, index: int) -> None:
    assert RUN.parse_upward(RUN.offer(node)) == Upward(node, "offer")
    assert RUN.parse_upward(RUN.state(node)) == Upward(node, "state")
    assert RUN.parse_upward(RUN.update(node, index)) == Upward(node, "update", index)


@given(st.integers(0, 999), st.integers(0, 65535))
def test_a_chunk_of_the_model_is_read_as_it_was_built(slot: int, index: int) -> None:
    assert RUN.parse_model_chunk(RUN.model_chunk(slot, index)) == (slot, index)


def test_a_subscription_catches_its_topics_and_no_others() -> None:
    caught = {
        RUN.every_offer: "up/{node}/offer",
        RUN.every_update: "up/{node}/update/{i}",
        RUN.every_state: "up/{node}/state",
    }
    for subscription, pattern in caught.items():
        assert is_wildcard(subscription)
        assert [key for key, topic in EXAMPLES.items() if matches(subscription, topic)] == [pattern]
    assert not any(is_wildcard(topic) for topic in EXAMPLES.values())


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "midge/v1/my-run/",
        UP + "ann",
        UP + "ann/",
        UP + "ann/offer/",
        UP + "ann/offer/1",
        UP + "ann/offer\n",
        UP + "ann/state/x",
        UP + "ann/state\n",
        UP + "ann/update",
        UP + "ann/update/",
        UP + "ann/update/1/2",
        UP + "ann/update/100000",
        UP + "ann/update/-1",
        UP + "ann/update/1\n",
        UP + "ann/update/x",
        UP + "ann/update/\u0663",
        UP + "ann/Offer",
        UP + "ann/receipt",
        UP + "ann/b/offer",
        UP + "/offer",
        UP + "+/offer",
        UP + "#",
        UP + ".ann/offer",
        UP + "-ann/offer",
        UP + "a nn/offer",
        UP + "ann\x00/offer",
        UP + "\xe9ve/offer",
        UP + "x" * 65 + "/offer",
        "midge/v1/other/up/ann/offer",
        "midge/v1/my-run2/up/ann/offer",
        "midge/v2/my-run/up/ann/offer",
        "/midge/v1/my-run/up/ann/offer",
        "x/midge/v1/my-run/up/ann/offer",
        "$SYS/broker/uptime",
        RUN.manifest,
        RUN.receipt("ann"),
        RUN.events,
    ],
)
def test_what_no_node_writes_is_not_read_as_if_one_did(topic: str) -> None:
    assert RUN.parse_upward(topic) is None


@pytest.mark.parametrize(
    "topic",
    [
        RUN.manifest,
        RUN.manifest + "/1",
        RUN.manifest + "/1/2/3",
        RUN.manifest + "/1000/2",
        RUN.manifest + "/1/100000",
        RUN.manifest + "/1/2\n",
        RUN.manifest + "/+/2",
        RUN.manifest + "/-1/2",
        RUN.manifest + "/\u0661/2",
        Topics("other").model_chunk(1, 2),
    ],
)
def test_what_is_no_chunk_of_the_model_is_not_read_as_one(topic: str) -> None:
    assert RUN.parse_model_chunk(topic) is None


@given(st.text(max_size=60))
def test_any_text_can_be_asked_about(text: str) -> None:
    for topic in (text, UP + text, RUN.manifest + text):
        upward = RUN.parse_upward(topic)
        if upward is not None:
            assert topic.startswith(f"{UP}{upward.node}/{upward.kind}")
        chunk = RUN.parse_model_chunk(topic)
        assert chunk is None or topic.startswith(RUN.manifest)
