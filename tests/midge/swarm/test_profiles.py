"""Who behaves how in a swarm."""

from collections import Counter
from pathlib import Path

import pytest

from midge.swarm import profiles
from midge.swarm.profiles import BUILT_IN, ORDINARY, Behaviour, Profile
from shared.errors import ConfigError


def test_without_a_profile_all_are_ordinary() -> None:
    assert profiles.deal(None, 3, 0) == [ORDINARY] * 3


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_group_gets_its_share(name: str) -> None:
    dealt = Counter(profiles.deal(BUILT_IN[name], 100, 1))
    assert all(dealt[group] == 20 for group in BUILT_IN[name].group)
    assert dealt.total() == 100


def test_the_seed_says_who() -> None:
    one, again, other = (profiles.deal(BUILT_IN["slow"], 100, seed) for seed in (1, 1, 2))
    assert one == again != other


def test_small_shares_of_few_nodes_make_no_more_than_all() -> None:
    thirds = Profile(group=tuple(Behaviour(share=1 / 3, speed=0.1 * i) for i in (1, 2, 3)))
    for nodes in range(1, 8):
        assert ORDINARY not in profiles.deal(thirds, nodes, 0)


def test_a_file_is_read_and_its_mistakes_are_named(tmp_path: Path) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text("[[group]]\nshare = 0.5\nspeed = 0.25\n")
    assert profiles.read(str(file)) == Profile(group=(Behaviour(share=0.5, speed=0.25),))
    file.write_text("[[group]]\nshare = 0.5\nspeed = 2.0\n")
    with pytest.raises(ConfigError, match=r"fleet\.toml:3.*speed"):
        profiles.read(str(file))
    file.write_text("[[group]]\nshare = 0.7\n[[group]]\nshare = 0.7\n")
    with pytest.raises(ConfigError, match="more than 1"):
        profiles.read(str(file))


def test_a_name_that_is_none_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no file nothing.*slow, flaky"):
        profiles.read("nothing")
