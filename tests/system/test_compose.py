"""The images and the compose file: built here on the tests' base, and run as a federation."""

import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import images
import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

TOP = Path(__file__).parents[2]
FILE = TOP / "deploy" / "compose.yaml"
NODES = ("node-1", "node-2", "node-3")
SERVICES = ("aggregator", *NODES)
ROUNDS = 3
BUILD_S = 500.0
"""Without any layer in the engine's cache: most of it unpacks torch."""
PATIENCE_S = 120.0


class Compose:
    """`docker-compose` with the file, and a second one: our label, health checked often."""

    def __init__(self, project: str, label: str, home: Path, data: Path) -> None:
        labels = {"labels": [label]}
        checked = labels | {"healthcheck": {"interval": "2s"}}
        ours = home / "ours.yaml"  # JSON is YAML
        built = {"build": labels}
        of_all = {
            "services": dict.fromkeys(SERVICES, checked)
            | {"broker": labels, "data": labels | built, "aggregator": checked | built},
            "networks": {"federation": labels},
            "volumes": dict.fromkeys(("mnist", "aggregator", *NODES), labels),
        }
        ours.write_text(json.dumps(of_all))
        self._command = ("docker-compose", "-p", project, "-f", FILE, "-f", ours)
        self._environ = os.environ | {
            "MIDGE_BASE": images.BASE,
            "MIDGE_BROKER_IMAGE": images.BROKER,
            "MIDGE_DATA": str(data),
            "MIDGE_ROUNDS": "0",  # without end
            "MIDGE_TAG": project,
            "TORCH_INDEX": images.torch_index(),
        }

    def __call__(self, *arguments: str, within_s: float = PATIENCE_S) -> str:
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=within_s,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    def container(self, service: str) -> str:
        return self("ps", "--quiet", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(_docker("inspect", self.container(service)))
        return found[0]

    def journal(self, event: str) -> list[dict[str, Any]]:
        """What the aggregator wrote down, as far as its lines are whole."""
        folder = next(
            mount["Source"]
            for mount in self.inspect("aggregator")["Mounts"]
            if mount["Destination"] == "/var/lib/midge"
        )
        file = Path(folder) / "journal.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        return [entry for entry in entries if entry["event"] == event]

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Ask again and again: the engine has nothing that could be awaited."""
        give_up = time.monotonic() + PATIENCE_S
        while not holds():
            if time.monotonic() > give_up:
                pytest.fail(f"{what}: not within {PATIENCE_S:.0f} s\n{self('logs')[-4000:]}")
            time.sleep(0.5)


@pytest.fixture(scope="module")
def compose(docker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """Everything is up, on images that were just built."""
    data = os.environ.get("MIDGE_DATA")
    if not data:
        pytest.skip("needs MNIST: set MIDGE_DATA")
    home = tmp_path_factory.mktemp("compose")
    made = Compose(f"midge-test-{os.getpid()}", docker, home, Path(data).resolve())
    try:
        made("build", within_s=BUILD_S)
        made("up", "--detach")
        yield made
    finally:
        made("down", "--volumes", "--timeout", "5")


def _docker(*arguments: str) -> str:
    command = ["docker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_accuracy_rises_every_node_counts_and_a_kill_changes_nothing(compose: Compose) -> None:
    # A score that is on its way when the aggregator is killed is lost.
    compose.until("version 0 is scored", lambda: _accuracy(compose, 0) is not None)
    compose.until("a version is made", lambda: len(compose.journal("version")) >= 1)
    before = compose.inspect("aggregator")
    os.kill(before["State"]["Pid"], signal.SIGKILL)  # as if it crashed: `docker kill` is final
    compose.until("more versions are made", lambda: len(compose.journal("version")) >= ROUNDS)
    assert compose.inspect("aggregator")["RestartCount"] == 1
    compose.until("the last is scored", lambda: _accuracy(compose, ROUNDS) is not None)
    assert (_accuracy(compose, 0) or 1.0) < 0.3
    assert (_accuracy(compose, ROUNDS) or 0.0) > 0.9
    for version in compose.journal("version")[:ROUNDS]:
        assert sorted(one["node"] for one in version["counted"]) == list(NODES)


def test_every_service_is_healthy_and_has_no_more_rights_than_it_needs(compose: Compose) -> None:
    for service in SERVICES:
        compose.until(f"{service} is healthy", functools.partial(_is, compose, service, "healthy"))
        found = compose.inspect(service)
        assert found["Config"]["User"] == "10001:10001"
        assert found["HostConfig"]["ReadonlyRootfs"]
        assert found["HostConfig"]["CapDrop"] == ["ALL"]


def test_the_images_have_neither_cuda_nor_pip(compose: Compose) -> None:
    listed = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    for service in ("aggregator", "node-1"):
        inside = _docker("exec", compose.container(service), "python", "-c", listed).lower().split()
        assert "torch" in inside
        assert [name for name in inside if name.startswith(("nvidia", "pip"))] == []


def test_who_is_cut_off_turns_unhealthy_and_comes_back(compose: Compose) -> None:
    compose("stop", "broker")
    for wanted in ("unhealthy", "healthy"):
        for service in SERVICES:
            compose.until(
                f"{service} is {wanted}", functools.partial(_is, compose, service, wanted)
            )
        compose("start", "broker")


def test_a_stop_is_a_goodbye(compose: Compose) -> None:
    compose("stop", *SERVICES)
    for service in SERVICES:
        assert compose.inspect(service)["State"]["ExitCode"] == 0


def _is(compose: Compose, service: str, health: str) -> bool:
    return bool(compose.inspect(service)["State"]["Health"]["Status"] == health)


def _accuracy(compose: Compose, version: int) -> float | None:
    for entry in compose.journal("evaluated"):
        if entry["version"] == version:
            return float(entry["test_accuracy"])
    return None
