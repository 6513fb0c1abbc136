"""Who is in which part of a swarm."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from midge.demo import Recipe
from midge.swarm.settings import Part
from midge.swarm.swarm import Swarm
from shared.config import Broker


@given(st.integers(1, 300), st.integers(1, 9))
def test_the_parts_of_all_workers_are_the_whole(nodes: int, processes: int) -> None:
    whole = Part(nodes=nodes, count=nodes)
    parts = Swarm(whole, min(processes, nodes), Path()).parts.values()
    assert [name for part in parts for name in part.names()] == whole.names()
    assert [config for part in parts for config in part.configs()] == whole.configs()
    counts = [part.count for part in parts]
    assert max(counts) - min(counts) <= 1


def test_a_node_of_the_demo_is_the_same_as_in_a_swarm() -> None:
    recipe = Recipe("mnist", 12, 3, 7, drop_one=False, data_dir=None, swarm=True)
    broker = Broker()
    virtual = recipe.part(broker).configs()
    assert virtual == [recipe.node(name, Path(name), broker) for name in recipe.node_names()]
