"""Two machines by hand, as README.md says it, typed into network namespaces: the host in one
network, the node in another, behind a NAT.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = re.search(r"^### By hand\n(.*?)^### ", README, re.DOTALL | re.MULTILINE)
assert SECTION is not None
ON_HOST, ON_NODE = (
    re.findall(r"^\$ (.*)$", block, re.MULTILINE)
    for block in re.findall(r"^```console\n(.*?)^```$", SECTION[1], re.DOTALL | re.MULTILINE)
)
HOST = "192.168.1.10"  # the README's; nobody else has it in there
LONG_S = 60.0
ONE_ROUND = {
    "MIDGE_AGGREGATOR_TASK": "null",
    "MIDGE_AGGREGATOR_ROUNDS__ROUNDS": "1",
    "MIDGE_NODE_TASK": "null",
}
NOTHING_TO_DO = {
    "sudo apt-get install make mosquitto python3-venv": "made sure by who starts the tests",
    "make venv": "the environment that the tests run in",
    "sudo apt-get install python3-venv": "the same",
    "python3 -m venv .venv": "the same",
    ".venv/bin/pip install '.[torch]' -c constraints.txt": "the same; test_install.py does it",
}
MAPPED = {
    # There is no systemd in a namespace: what its unit starts.
    "sudo systemctl restart mosquitto": "mosquitto -c /etc/mosquitto/mosquitto.conf",
    "scp -r pki/nodes/kitchen pi@192.168.1.21:": "cp -r pki/nodes/kitchen {home}/node/",
}

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for networks of its own"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip: apt-get install iproute2"),
    pytest.mark.skipif(
        shutil.which("iptables", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None,
        reason="needs iptables: apt-get install iptables",
    ),
    pytest.mark.skipif(not Path("/etc/mosquitto").is_dir(), reason="needs /etc/mosquitto"),
]

_SERVICE = re.compile(r"mosquitto |.*/midge (aggregator|node) ")


@dataclass
class Typist:
    """Types on one machine: a namespace of the network, and an /etc/mosquitto of its own."""

    namespace: str
    home: Path
    own: Path
    """Its /etc/mosquitto."""
    folder: Path
    services: list["subprocess.Popen[str]"] = field(default_factory=list)
    _started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def type(self, command: str) -> None:
        """Type one line of the README, and wait for it unless it is a service."""
        if command in NOTHING_TO_DO:
            return
        command = MAPPED.get(command, command).format(home=self.home).removeprefix("sudo ")
        if command.startswith("cd "):
            self.folder = (self.folder / command.removeprefix("cd ")).resolve()
        elif _SERVICE.match(command):
            self.services.append(self._start(command))
        else:
            done = self._start(command)
            told, _ = done.communicate(timeout=LONG_S)
            assert done.returncode == 0, f"{command}: {told}"

    def kill(self) -> None:
        """End what still runs."""
        for process in self._started:
            with process:
                process.kill()

    def _start(self, command: str) -> "subprocess.Popen[str]":
        service = "exec " if _SERVICE.match(command) else ""
        own = f"mount --bind {shlex.quote(str(self.own))} /etc/mosquitto"
        shell = f"{own}; PATH=$PATH:/usr/sbin; {service}{command}"
        started = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, "unshare", "-m", "bash", "-ec", shell],
            cwd=self.folder,
            env={**os.environ, **ONE_ROUND},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(started)
        return started


@pytest.fixture
def networks() -> Iterator[tuple[str, str]]:
    """The namespaces of host and node, and between them a router that hides the node."""
    host, router, node = names = [f"midge-{name}-{os.getpid()}" for name in ("host", "nat", "node")]
    trials = (
        f"ip netns add {host}",
        f"ip -n {host} link set lo up",
        "unshare -m mount --bind /etc/mosquitto /etc/mosquitto",
    )
    try:
        for trial in trials:
            done = subprocess.run(trial.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                # CI lets it pass where no engine can start, which needs the same rights.
                pytest.skip(f"neither this nor Docker is allowed here: {trial}: {done.stderr}")
        for name in (router, node):
            _run(f"ip netns add {name}")
            _run(f"ip -n {name} link set lo up")
        _cable(host, f"{HOST}/24", router, "192.168.1.1/24", "lan")
        _cable(node, "10.0.0.2/24", router, "10.0.0.1/24", "home")
        _run(f"ip -n {node} route add default via 10.0.0.1")
        forward = "echo 1 >/proc/sys/net/ipv4/ip_forward"
        masquerade = "PATH=$PATH:/usr/sbin iptables -t nat -A POSTROUTING -o lan -j MASQUERADE"
        _run(f"ip netns exec {router} sh -ec '{forward}; {masquerade}'")
        yield host, node
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _cable(one: str, address: str, other: str, other_address: str, name: str) -> None:
    _run(f"ip -n {one} link add {name} type veth peer name {name} netns {other}")
    for namespace, own in ((one, address), (other, other_address)):
        _run(f"ip -n {namespace} address add {own} dev {name}")
        _run(f"ip -n {namespace} link set {name} up")


def _run(command: str) -> None:
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def _machine(namespace: str, home: Path, name: str) -> Typist:
    """With a clone in ~/midge, whose environment is the one that the tests run in."""
    clone = home / name / "midge"
    clone.mkdir(parents=True)
    (clone / ".venv").symlink_to(sys.prefix)
    (clone / "mosquitto").symlink_to(ROOT / "mosquitto")
    own = home / name / "etc-mosquitto"
    (own / "conf.d").mkdir(parents=True)
    (own / "mosquitto.conf").write_text("include_dir /etc/mosquitto/conf.d\n", encoding="utf-8")
    return Typist(namespace, home, own, clone)


@pytest.fixture
def machines(networks: tuple[str, str], tmp_path: Path) -> Iterator[tuple[Typist, Typist]]:
    host = _machine(networks[0], tmp_path, "host")
    node = _machine(networks[1], tmp_path, "node")
    try:
        yield host, node
    finally:
        node.kill()
        host.kill()


def test_what_the_readme_has_one_type_makes_a_federation(
    machines: tuple[Typist, Typist],
) -> None:
    host, node = machines
    for command in ON_HOST:
        host.type(command)
    for command in ON_NODE:
        node.type(command)
    broker, aggregator = host.services
    told, _ = aggregator.communicate(timeout=LONG_S)
    assert aggregator.returncode == 0, told
    assert "finished: term 1, round 1, version 1" in told, told
    broker.terminate()
    told, _ = broker.communicate(timeout=LONG_S)
    # Mosquitto sees the router: of the node's own network it knows nothing.
    assert re.search(r"from 192\.168\.1\.1:\d+ as midge-lab-node-kitchen .*u'kitchen'", told), told


def test_every_line_is_typed_or_it_is_told_why_not() -> None:
    """A mapping of a line that the README no longer has would be a hole."""
    assert set(NOTHING_TO_DO) | set(MAPPED) <= {*ON_HOST, *ON_NODE}
    assert len(ON_HOST) == 12
    assert len(ON_NODE) == 5
