"""A short form of `make chaos`: every update that was finished is accounted for."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.system.federation.conftest import Workplace

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[3]


@pytest.mark.usefixtures("mosquitto")
@pytest.mark.parametrize("mode", ["synchronous", "buffered"])
def test_no_update_is_lost_and_none_counts_twice_whatever_is_killed(
    place: "Workplace", mode: str
) -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--kills", "8", "--seed", "15"]
    struck = place.start(
        [*command, "--nodes", "3", "--mode", mode, "--out", place.home],
        {"PYTHONPATH": str(ROOT)},
    )
    assert struck.wait() == 0, struck.text()
    found = re.fullmatch(
        r"finished (\d+) counted (\d+) refused (\d+) lost 0 twice 0",
        struck.text().splitlines()[-1],
    )
    assert found, struck.text()
    finished, counted, refused = map(int, found.groups())
    assert finished == counted + refused >= 12
