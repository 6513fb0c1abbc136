"""The units under a real systemd: a broker with TLS, an aggregator and two nodes on one machine."""

import io
import json
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from systemd_machine import UNITS, Machine

# The first one may have to make the image.
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

AGGREGATOR, NODE, LAB = "midge-aggregator", "midge-node", "midge-node@lab"
FLEET = {AGGREGATOR: "midge-aggregator", NODE: "kitchen", LAB: "lab"}
"""Each unit with the name in its certificate."""
RESTART_S, WATCHDOG_S = 1, 3

# As installed, but in less time.
QUICK = f"[Service]\nRestartSec={RESTART_S}\nWatchdogSec={WATCHDOG_S}\nTimeoutStartSec=20\n"
BROKER = """\
listener 8883 127.0.0.1
cafile /etc/mosquitto/certs/ca.pem
certfile /etc/mosquitto/certs/cert.pem
keyfile /etc/mosquitto/certs/key.pem
require_certificate true
use_identity_as_username true
"""
ROUNDS = """\
[rounds]
mode = "buffered"
rounds = 0
min_nodes = 2
goal = 2
publish_every_s = 0.3
"""
"""A version after the other, without an end, at a pace that leaves room for others."""
THREE_ROUNDS = "[rounds]\nrounds = 3\nmin_nodes = 2\nmin_updates = 2\n"
RENEW = f"""\
systemctl stop mosquitto {" ".join(FLEET)}
rm -rf {UNITS}/*.service.d/60-of-a-test.conf
rm -rf /etc/midge /var/lib/midge-* /var/lib/private/midge-* /var/lib/mosquitto/*
cp -a /srv/new /etc/midge
systemctl daemon-reload
systemctl reset-failed
systemctl start mosquitto
"""
RETAINED = """\
import sys
from paho.mqtt.subscribe import simple
pki = "/etc/midge/aggregator/"
tls = {"ca_certs": pki + "ca.pem", "certfile": pki + "cert.pem", "keyfile": pki + "key.pem"}
print(simple(sys.argv[1], hostname="127.0.0.1", port=8883, tls=tls).payload.decode())
"""

LOOK = """\
for each in /run/credentials/midge-node.service/key.pem \\
    /run/credentials/midge-node@lab.service/key.pem /etc/midge/node/key.pem \\
    /var/lib/midge-node/lock /var/lib/midge-node@lab/lock /home/somebody/diary
do head -c 1 "$each" >/dev/null 2>&1 && echo "can read $each"; done
for each in /var/lib/midge-node /var/lib /etc/midge /opt/midge /home /usr/local/bin /srv
do touch "$each/touched" 2>/dev/null && echo "can write $each"; done
true
"""
"""What a node's unit runs in its sandbox, before the node."""
CONVOLUTION = """\
import hashlib
import torch
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.Conv2d(32, 64, 3))
model(torch.randn(16, 3, 32, 32)).square().mean().backward()
bits = b"".join(one.grad.numpy().tobytes() for one in model.parameters())
print("convolved to", hashlib.sha256(bits).hexdigest())
"""
"""torch compiles it while it runs, and chooses how by /proc/cpuinfo."""


class Authority:
    """Signs certificates, with openssl."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._openssl("req -x509 -newkey rsa:2048 -nodes -subj /CN=authority "
                      "-keyout ca.key -out ca.pem")  # fmt: skip
        (home / "names").write_text("subjectAltName=IP:127.0.0.1\n")

    def sign(self, name: str, days: int = 2) -> dict[str, bytes]:
        """A certificate with its key, and the authority's; with days below 0 it has expired."""
        self._openssl(f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout key.pem -out csr.pem")
        self._openssl(f"x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial "
                      f"-days {days} -extfile names -out cert.pem")  # fmt: skip
        files = ("ca.pem", "cert.pem", "key.pem")
        return {file: (self.home / file).read_bytes() for file in files}

    def _openssl(self, arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments.split()], cwd=self.home, check=True, capture_output=True
        )


class Field(Machine):
    """A machine on which a fleet is installed."""

    def __init__(self, label: str, authority: Authority) -> None:
        super().__init__(label)
        self.credentials = {unit: authority.sign(name) for unit, name in FLEET.items()}
        for number, unit in enumerate(FLEET):
            self.give(unit, self.credentials[unit])
            self.settle(unit, number)
        for file, content in authority.sign("broker").items():
            self.put(f"/etc/mosquitto/certs/{file}", content)
        self.put("/etc/mosquitto/conf.d/field.conf", BROKER)
        self.put(f"{UNITS}/midge-.service.d/50-quick.conf", QUICK)
        self.put("/srv/retained.py", RETAINED)
        self.run("cp", "-a", "/etc/midge", "/srv/new")

    def renew(self) -> None:
        """As if newly installed, with the broker running."""
        self.run("sh", "-ec", RENEW)
        self.mark()

    def give(self, unit: str, credentials: dict[str, bytes]) -> None:
        for file, content in credentials.items():
            self.put(f"/etc/midge/{unit.removeprefix('midge-')}/{file}", content, 0o600)

    def settle(self, unit: str, number: int, task: str = "null", rounds: str = ROUNDS) -> None:
        """Write a unit's settings."""
        lines = ['run = "field"', f'task = "{task}"']
        sections = ['[broker]\nhost = "127.0.0.1"\nport = 8883\nlongest_pause_s = 2\n']
        if unit == AGGREGATOR:
            lines.append("evaluate = false")
            sections.append(rounds)
        else:
            lines.append(f'name = "{FLEET[unit]}"')
            own = f'path = "/var/lib/{unit}/data/own.npz"'
            sections.append(
                "[shard]\n" + (own if task != "null" else f"index = {number - 1}\nof = 20")
            )
        text = "\n".join([*lines, *sections]) + "\n"
        self.put(f"/etc/midge/{unit.removeprefix('midge-')}.toml", text)

    def start(self, *units: str) -> None:
        """Start without waiting until it is ready."""
        self.run("systemctl", "start", "--no-block", *units)

    def starts(self, *units: str) -> None:
        """Wait until units are ready."""
        for unit in units:
            self.until(unit, rf"^Started {unit}\.service")

    def runs(self) -> None:
        """Start the fleet and wait until it has made a version."""
        self.start(*FLEET)
        self.until(AGGREGATOR, "^version: .* version 1,")
        for unit in FLEET:
            assert self.show(unit, "ActiveState", "NRestarts") == ["active", "0"]

    def override(self, unit: str, *lines: str) -> None:
        """Give a unit a drop-in for the rest of the test."""
        text = "\n".join(["[Service]", *lines]) + "\n"
        self.put(f"{UNITS}/{unit}.service.d/60-of-a-test.conf", text)
        self.run("systemctl", "daemon-reload")

    def retained(self, topic: str) -> dict[str, object]:
        """What the broker keeps on a topic of the run."""
        command = ("/opt/midge/bin/python", "/srv/retained.py", f"midge/v1/field/{topic}")
        found: dict[str, object] = json.loads(self.run(*command))
        return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def installed(docker: str, authority: Authority) -> Iterator[Field]:
    with Field(docker, authority) as field:
        yield field


@pytest.fixture
def field(installed: Field) -> Field:
    installed.renew()
    return installed


def version(line: str) -> int:
    """The version that a line of the aggregator names."""
    found = re.search(r" version (\d+)", line)
    assert found, line
    return int(found[1])


def test_systemd_has_nothing_to_say_about_the_units(field: Field) -> None:
    assert field.run("systemd-analyze", "verify", *(f"{unit}.service" for unit in FLEET)) == ""


def test_a_fleet_waits_for_its_broker(field: Field) -> None:
    field.run("systemctl", "stop", "mosquitto")
    field.start(*FLEET)
    for unit in FLEET:
        field.until(unit, r"cannot reach 127\.0\.0\.1:8883: Connection refused.*; next try in")
        assert field.show(unit, "ActiveState", "NRestarts") == ["activating", "0"]
    field.run("systemctl", "start", "mosquitto")
    field.starts(*FLEET)
    field.until(AGGREGATOR, "^version: .* version 1,")
    for unit in (NODE, LAB):
        field.until(unit, "counted in version")
    for unit in FLEET:
        assert field.show(unit, "ActiveState", "NRestarts") == ["active", "0"]
        warnings = field.journal(unit, "--priority=warning")
        assert warnings
        assert all("next try in" in line for line in warnings)
        assert "version" in field.show(unit, "StatusText")[0]


def test_a_stop_is_a_goodbye(field: Field) -> None:
    field.runs()
    field.run("systemctl", "stop", NODE)
    assert field.show(NODE, "ActiveState", "Result") == ["inactive", "success"]
    goodbye = field.retained("up/kitchen/state")
    assert (goodbye["alive"], goodbye["doing"]) == (False, "stopped")
    field.run("systemctl", "stop", AGGREGATOR)
    assert field.show(AGGREGATOR, "ActiveState", "Result") == ["inactive", "success"]
    assert field.retained("aggregator/state")["alive"] is False
    assert any(line.startswith("stopped: ") for line in field.journal(AGGREGATOR))


@pytest.mark.parametrize("unit", [AGGREGATOR, NODE])
def test_who_is_killed_comes_back_and_goes_on(field: Field, unit: str) -> None:
    field.runs()
    field.mark()
    made = version(field.until(AGGREGATOR, "^version: "))
    field.mark()
    field.run("systemctl", "kill", "--signal=KILL", unit)
    field.starts(unit)
    assert field.show(unit, "NRestarts") == ["1"]
    if unit == AGGREGATOR:
        assert version(field.until(unit, "^started: term 2,")) >= made
    else:
        field.mark()
        # Not a new node: it has the state directory that it had, and counts on.
        update = re.search(r"update (\d+)", field.until(unit, "counted in version"))
        assert update
        assert int(update[1]) > 1
    field.mark()
    assert version(field.until(AGGREGATOR, "^version: ")) > made


@pytest.mark.parametrize("unit", [AGGREGATOR, NODE])
def test_who_hangs_is_ended_and_comes_back(field: Field, unit: str) -> None:
    field.runs()
    field.mark()
    field.run("systemctl", "kill", "--signal=STOP", unit)
    field.until(unit, r"Watchdog timeout \(limit 3s\)")
    field.until(unit, r"\(most recent call first\)")  # where it hung
    field.starts(unit)
    field.mark()
    field.until(AGGREGATOR, "^version: ")


def test_a_certificate_that_has_expired_is_tried_again_at_a_calm_pace(
    field: Field, authority: Authority
) -> None:
    field.give(NODE, authority.sign("kitchen", days=-1))
    field.start(*FLEET)
    field.until(NODE, r"our certificate .* expired on .*--renew")
    field.until(NODE, "restart counter is at 3")
    stamps = field.journal(NODE, "--output=short-unix", "--grep=restart counter is at")
    times = [float(line.split()[0]) for line in stamps]
    assert all(later - earlier > RESTART_S for earlier, later in pairwise(times))
    field.give(NODE, field.credentials[NODE])
    field.starts(NODE)
    field.until(NODE, "counted in version")


def test_a_broker_of_a_stranger_is_not_believed(field: Field, tmp_path: Path) -> None:
    stranger = Authority(tmp_path).sign("stranger")
    field.give(NODE, {**field.credentials[NODE], "ca.pem": stranger["ca.pem"]})
    field.start(*FLEET)
    field.until(NODE, r"TLS failed: its certificate is not from the authority in .*ca\.pem")
    field.until(NODE, "restart counter is at 1")
    field.give(NODE, field.credentials[NODE])
    field.starts(NODE)
    field.until(NODE, "counted in version")


@pytest.mark.parametrize("unit", [AGGREGATOR, NODE])
def test_a_start_that_takes_too_long_is_tried_again(field: Field, unit: str) -> None:
    field.override(unit, "TimeoutStartSec=3")
    field.run("systemctl", "stop", "mosquitto")
    field.start(unit)
    field.until(unit, "start operation timed out")
    field.until(unit, "restart counter is at 1")
    field.run("systemctl", "start", "mosquitto")
    field.starts(unit)


def test_a_key_that_is_missing_is_waited_for(field: Field) -> None:
    field.run("rm", "/etc/midge/node/key.pem")
    field.start(*FLEET)
    field.until(NODE, "Failed to set up credentials")
    field.until(NODE, "status=243/CREDENTIALS")
    field.until(NODE, "restart counter is at 1")
    field.give(NODE, field.credentials[NODE])
    field.starts(NODE)


def test_a_service_is_alone_with_its_key_and_its_state(field: Field) -> None:
    field.runs()
    field.run("systemctl", "stop", NODE)
    field.put("/home/somebody/diary", "dear", 0o666)
    field.put("/srv/look.sh", LOOK)
    node = "exec /opt/midge/bin/python -m edge_node --config /etc/midge/node.toml"
    field.override(NODE, "ExecStart=", f"ExecStart=/bin/sh -c '. /srv/look.sh; {node}'")
    field.mark()
    field.run("systemctl", "start", NODE)
    told = [line for line in field.journal(NODE) if line.startswith("can ")]
    own = f"/run/credentials/{NODE}.service/key.pem"
    assert told == [
        f"can read {own}",
        f"can read /var/lib/{NODE}/lock",
        f"can write /var/lib/{NODE}",
    ]
    assert len({"0", *(field.show(unit, "UID")[0] for unit in FLEET)}) == 4
    for path in (own, f"/var/lib/{NODE}/lock", "/etc/midge/node/key.pem"):
        with pytest.raises(AssertionError, match="Permission denied"):
            field.run("setpriv", "--reuid=nobody", "--clear-groups", "cat", path)


def test_a_run_that_is_over_stays_over(field: Field) -> None:
    field.settle(AGGREGATOR, 0, rounds=THREE_ROUNDS)
    field.start(*FLEET)
    field.until(AGGREGATOR, "Deactivated successfully")
    # With Restart=always this would be activating, auto-restart.
    state = field.show(AGGREGATOR, "ActiveState", "SubState", "Result")
    assert state == ["inactive", "dead", "success"]
    assert field.show(NODE, "ActiveState") == ["active"]


def test_nodes_train_with_torch_on_their_own_data(field: Field) -> None:
    field.settle(AGGREGATOR, 0, "mnist", THREE_ROUNDS)
    for number, unit in ((1, NODE), (2, LAB)):
        field.settle(unit, number, "mnist")
        rng = np.random.default_rng(number)
        file = io.BytesIO()
        pictures = rng.integers(0, 256, (200, 28, 28), np.uint8)
        np.savez(file, x=pictures, y=rng.integers(0, 10, 200))
        field.put(f"/var/lib/{unit}/data/own.npz", file.getvalue())  # before it ever ran
    field.start(*FLEET)
    field.until(AGGREGATOR, "^version: .* version 3,")
    for unit in (NODE, LAB):
        assert not [line for line in field.journal(unit) if "rror" in line]
        # Moved to where only its owner of the day can enter.
        private = f"/var/lib/private/{unit}"
        assert field.run("stat", "--format=%a", private) == "700"
        assert field.run("ls", f"{private}/data") == "own.npz"


def test_a_convolution_has_the_same_bits_within_the_sandbox(field: Field) -> None:
    field.put("/srv/convolve.py", CONVOLUTION)
    field.put(
        f"{UNITS}/midge-probe.service",
        "[Service]\nExecStart=/opt/midge/bin/python /srv/convolve.py\n",
    )
    field.override("midge-probe", "Type=oneshot")
    field.run("systemctl", "start", "midge-probe")
    assert field.run("/opt/midge/bin/python", "/srv/convolve.py") in field.journal("midge-probe")
