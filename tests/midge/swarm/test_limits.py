"""A swarm that does not fit says how many nodes would."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from midge.swarm import limits
from shared.errors import ConfigError


def test_descriptors_that_are_enough() -> None:
    limits.check_descriptors(900, 1, 1024)
    limits.check_descriptors(1900, 2, 1024)


def test_too_few_descriptors() -> None:
    with pytest.raises(ConfigError, match=r"--nodes 1000: .*1064.*1024; 960 nodes fit"):
        limits.check_descriptors(1000, 1, 1024)
    with pytest.raises(ConfigError, match="1920 nodes fit"):
        limits.check_descriptors(2000, 2, 1024)


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    each = limits.NODE_BYTES + limits.MODELS * 1_000_000
    free = SimpleNamespace(available=10 * each + 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    limits.check_memory(10, 1_000_000)
    with pytest.raises(ConfigError, match=r"--nodes 11: .*1\.0 MB.* 10 nodes fit"):
        limits.check_memory(11, 1_000_000)


def test_too_few_ports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "ports"
    file.write_text("1000\t1999\n")
    monkeypatch.setattr(limits, "_PORTS", file)
    limits.check_ports(1000)
    with pytest.raises(ConfigError, match="1000 ports"):
        limits.check_ports(1001)
    monkeypatch.setattr(limits, "_PORTS", tmp_path / "no such system")
    limits.check_ports(100_000)
