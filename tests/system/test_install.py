"""The installers on fresh machines, typed as README.md says it, letter by letter."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fresh_machine import Machine, mounted_data, network

# The first one may have to make the image; torch is installed for real.
pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
SECTION = re.search(r"^## Two real machines\n(.*?)^### By hand", README, re.DOTALL | re.MULTILINE)
assert SECTION is not None
TYPED = re.findall(r"^\$ (.*)$", SECTION[1], re.MULTILINE)
NODE = "midge/deploy/install-node.sh"
HOST = "midge/deploy/install-aggregator.sh"
# Rounds that are soon over, and do not end; everything else is as installed.
QUICK = {
    "aggregator": "MIDGE_AGGREGATOR_ROUNDS__ROUNDS=0\n",
    "node": "MIDGE_NODE_SHARD__PER_LABEL=20\n",
}


@dataclass(frozen=True)
class Site:
    """Two machines on a network, and what the README has one type there."""

    host: Machine
    node: Machine

    def type(self, command: str) -> str:
        """Type it on the host, in the clone, with the addresses that the machines have here."""
        command = command.replace("192.168.1.10", self.host.address)
        return self.host.run(command.replace("192.168.1.21", self.node.address), "~/midge")


@pytest.fixture(scope="module")
def site(docker: str) -> Iterator[Site]:
    data, setting = mounted_data()
    with (
        network(docker) as lan,
        Machine("host", docker, "--network", lan, *data) as host,
        Machine("raspberrypi", docker, "--network", lan, "--volume", "/opt", *data) as node,
    ):
        host.put_clone()
        # Nothing else is done behind the README's back: where MNIST is, as none can be downloaded.
        for machine, side in ((host, "aggregator"), (node, "node")):
            machine.run("mkdir /etc/midge", user="root")
            machine.run(f"printf '{setting}{QUICK[side]}' >/etc/midge/{side}.env", user="root")
        yield Site(host, node)


def test_what_the_readme_has_one_type_makes_a_federation(site: Site) -> None:
    install_host, copy, install_node, *status = TYPED
    told = site.type(install_host)
    assert "midge-aggregator.service is active" in told
    # What it says to type next is what the README says.
    assert f"  {copy.replace('pi@192.168.1.21', 'USER@MACHINE')}\n" in told
    assert f"  {install_node.replace('pi@192.168.1.21', 'USER@MACHINE')}\n" in told
    site.type(copy)
    assert "midge-node.service is active" in site.type(install_node)
    counted = "journalctl -fu midge-aggregator | grep -m 1 'version: .*version 1'"
    site.host.run(f"timeout 60 {counted}", user="root")
    # The aggregator says it once a second at most, and these rounds are shorter.
    looks = (site.type(" && ".join(status)) for _ in range(10))
    assert any(re.search(r"kitchen .* counted in version \d", told) for told in looks)


def test_again_changes_nothing(site: Site) -> None:
    folders = "/opt/midge /etc/midge /etc/systemd ~/midge $(ls -d /etc/mosquitto)"
    everything = f"sudo find {folders} -printf '%p %T@ %m %u\\n'"
    pids = "sudo systemctl show --property MainPID midge-{aggregator,node} mosquitto"
    site.type(TYPED[1])
    for machine, command in ((site.host, TYPED[0]), (site.node, TYPED[2])):
        before = machine.run(everything), machine.run(pids)
        site.type(command)
        assert (machine.run(everything), machine.run(pids)) == before
    # The key is where it belongs, and nowhere else.
    site.node.run("test ! -e kitchen")


def test_what_a_run_changed_is_started_again_by_the_next_when_it_was_cut_off(site: Site) -> None:
    pid = "sudo systemctl show --property MainPID midge-aggregator"
    before = site.host.run(pid)
    settings = "/etc/midge/aggregator.toml"
    site.host.run("midge certs aggregator --renew", "~/midge")
    site.host.run(f"sudo cp -p {settings} {settings}.whole; echo wrong | sudo tee -a {settings}")
    told = site.host.run("sudo deploy/install-aggregator.sh", "~/midge", code=1)
    assert "wrote /etc/midge/aggregator/cert.pem" in told
    assert site.host.run(pid) == before
    site.host.run(f"sudo mv {settings}.whole {settings}")
    told = site.host.run("sudo deploy/install-aggregator.sh", "~/midge")
    assert "wrote" not in told
    assert site.host.run(pid) != before


def test_another_clone_has_the_same_authority(site: Site) -> None:
    site.host.run("cp -r midge newer && rm -r newer/pki")
    site.host.run("sudo sed -i.whole s,midge/pki,lost, /etc/midge/aggregator.authority")
    told = site.host.run("sudo newer/deploy/install-aggregator.sh --host 10.0.0.1", code=1)
    assert "the authority of this machine is not in /home/pi/lost" in told
    site.host.run("sudo mv /etc/midge/aggregator.authority{.whole,}")
    site.host.run("midge certs revoke kitchen", "~/midge")
    site.host.run("sudo deploy/install-aggregator.sh --host 10.0.0.1 --run lab", "~/newer")
    site.host.run("test ! -e newer/pki")
    site.node.run(
        "sudo timeout 60 journalctl -fu midge-node | grep -m 1 'has revoked our certificate'"
    )


def test_a_rule_that_the_own_ones_lack_is_told(site: Site) -> None:
    site.host.run("sed -i '/receipt/d; $a user mole\\ntopic deny #' pki/broker/acl", "~/midge")
    told = site.host.run("sudo deploy/install-aggregator.sh", "~/midge")
    assert "kept /home/pi/midge/pki/broker/acl, though" in told
    assert "kept /home/pi/midge/pki/broker/midge.conf" not in told


def test_without_systemd_it_says_what_to_type(site: Site, docker: str) -> None:
    with Machine("plain", docker, "--volumes-from", site.node.id, systemd=False) as machine:
        machine.put_clone()
        # torch is in its /opt already, from the node.
        told = machine.run(f"sudo {NODE} --plain --broker 127.0.0.1 --name a --run r")
        assert "no systemd runs here, so nothing was started" in told
        command = told.splitlines()[-1].strip()
        by_hand = command.replace("/opt/midge/bin/python", "timeout 8 /opt/midge/bin/python")
        told = machine.run(f"{{ {by_hand} || true; }}", user="root")
        assert "127.0.0.1:1883" in told, told
        # The next version is one that cannot be installed: the old one goes on.
        machine.run("sed -i 's/msgpack>=1.0/msgpack>=999/' midge/pyproject.toml")
        again = machine.run(f"sudo {NODE}", code=1)
        assert "the version that was there goes on" in again
        assert machine.run("midge --help")


def test_uninstalled_leaves_only_what_it_says(site: Site) -> None:
    said = site.node.run("sudo midge/deploy/install-node.sh --uninstall")
    assert "kept /etc/midge/node* and /var/lib/midge-node" in said
    elsewhere = "-path /home -prune -o -path /var/log -prune"
    look = f"sudo find / /opt -xdev {elsewhere} -o -name '*midge*' -print"
    left = set(site.node.run(look).split())
    assert left == {"/etc/midge", "/var/lib/midge-node", "/var/lib/private/midge-node"} | {
        path for path in left if path.startswith("/var/cache/")
    }
    assert "--yes" in site.node.run("sudo midge/deploy/install-node.sh --uninstall --purge", code=1)
    site.node.run("sudo midge/deploy/install-node.sh --uninstall --purge --yes")
    assert site.node.run(look) == ""


def test_the_broker_keeps_what_is_not_from_here(site: Site) -> None:
    command = "sudo deploy/install-aggregator.sh --uninstall"
    look = "sudo ls /etc/mosquitto/midge /etc/mosquitto/conf.d"
    site.host.run("sudo touch /etc/mosquitto/midge/passwords")
    site.host.run(command, "~/midge")
    kept = site.host.run(look).split()
    assert {"acl", "ca.pem", "cert.pem", "crl.pem", "key.pem", "passwords"} < set(kept)
    assert "midge.conf" not in kept
    site.host.run(f"{command} --purge --yes", "~/midge")
    assert site.host.run("sudo ls /etc/mosquitto/midge") == "passwords\n"
    site.host.run("test ! -e /etc/midge/aggregator.authority")


# What stands in the way is said before anything is installed


@pytest.fixture(scope="module")
def bare(docker: str) -> Iterator[Machine]:
    """A machine without systemd, with little room in /opt."""
    tmpfs = ("--tmpfs", "/opt:size=64m")
    with Machine("bare", docker, *tmpfs, systemd=False) as machine:
        machine.put_clone()
        machine.run(FOLDERS)
        yield machine


FOLDERS = """
set -e; mkdir ~/made; cd ~/made; mkdir -p nodes/{kitchen,empty,wrong,late,foreign,renamed}
for name in ca stranger; do
    openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=$name -keyout $name.key -out $name.pem
done
cd nodes/kitchen; cp ../../ca.pem .; echo 'name = "kitchen"' >node.toml
openssl req -newkey rsa:2048 -nodes -subj /CN=kitchen -keyout key.pem -out csr.pem
sign() { openssl x509 -req -in csr.pem -CA ca.pem -CAkey ../../ca.key -CAcreateserial -out "$@"; }
sign cert.pem -days 2
for other in wrong late foreign renamed; do cp *.pem node.toml ../$other; done
sign ../late/cert.pem -days -1
cp ../../ca.key ../wrong/key.pem; cp ../../stranger.pem ../foreign/ca.pem
echo 'name = "attic"' >../renamed/node.toml
"""
# With another program of that name: fake 'date=echo 1970' COMMAND
FAKE = """\
fake() {
    mkdir -p ~/fake; printf '#!/bin/sh\\n%s\\n' "${1#*=}" >~/fake/${1%%=*}; chmod +x ~/fake/*; shift
    sudo env PATH=~/fake:$PATH "$@"; code=$?; rm -r ~/fake; return $code
}; fake"""

# What an upgrade of Debian makes of what was installed: its Python finds nothing in there.
OLD_PYTHON = (
    "sudo mkdir -p /opt/midge/bin; sudo touch /opt/midge/{pyvenv.cfg,.installed};"
    " sudo ln -s /usr/bin/python3 /opt/midge/bin/python"
)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (f"{NODE} --yes", "type sudo midge/deploy/install-node.sh"),
        (f"sudo {NODE}", "give the folder that midge certs node NAME made, or --plain"),
        (f"sudo {NODE} --plain", "give --broker HOST[:PORT]"),
        (f"sudo {NODE} --plain --broker b", "give --name NAME"),
        (f"sudo {NODE} --plain --broker mqtt://b --name a --run r", "without mqtt://"),
        (f"sudo {NODE} --plain --broker b --name a/b --run r", "--name a/b"),
        (f"sudo {NODE} --plain kitchen", "leave out one of them"),
        (f"sudo {NODE} --brokre b", "there is no option --brokre"),
        (f"sudo {NODE} --purge", "--purge goes with --uninstall"),
        (f"sudo {NODE} --broker", "--broker needs a value"),
        (f"sudo {HOST}", "give --host HOST"),
        (f"sudo {HOST} --host", "--host needs a value"),
        (f"sudo {HOST} --plain --node kitchen", "leave out --certificates, --host and --node"),
        (f"sudo {NODE} kitchen", "there is no folder"),
        (f"sudo {NODE} made", "give /home/pi/made/nodes/NAME"),
        (f"sudo {NODE} made/nodes/empty", "has no ca.pem"),
        (f"sudo {NODE} made/nodes/wrong", "key.pem is not the key of cert.pem"),
        (f"sudo {NODE} made/nodes/late", "cert.pem has expired, unless the clock"),
        (f"sudo {NODE} made/nodes/foreign", "cert.pem is not signed by ca.pem beside it"),
        (f"sudo {NODE} made/nodes/renamed", "the certificate of kitchen, and this node is attic"),
        (f"{FAKE} 'date=echo 1970' {NODE} made/nodes/kitchen", "timedatectl set-ntp true"),
        (f"{FAKE} 'dpkg=echo armhf' {NODE} made/nodes/kitchen", "install the 64-bit Raspberry"),
        (f"{FAKE} 'dpkg=echo riscv64' {NODE} made/nodes/kitchen", "no torch for riscv64"),
        (f"{FAKE} 'python3=exit 1' {NODE} made/nodes/kitchen", "Midge needs Python 3.11"),
        (f"{OLD_PYTHON}; sudo {NODE} made/nodes/kitchen", "making it anew"),
        (
            f"sudo {NODE} made/nodes/kitchen",
            "/opt: 1600 MB are needed and 64 MB are free; make room",
        ),
    ],
)
def test_what_is_missing_is_named(bare: Machine, command: str, told: str) -> None:
    assert told in bare.run(command, code=1)
    assert bare.run("ls /opt /etc/midge 2>/dev/null", code=2) == "/opt:\n"


def test_a_torch_with_cuda_is_refused_before_it_is_downloaded(docker: str) -> None:
    """Nowhere but on the package index, where the one for x86-64 is with CUDA."""
    with Machine("far", docker, systemd=False) as machine:
        machine.put_clone()
        machine.run("sudo rm -f /etc/pip.conf")
        install = (
            f"sudo {NODE} --plain --broker b --name a --run r --torch-index http://127.0.0.1:9"
        )
        told = machine.run(install, code=1)
        assert "found no torch for CPUs" in told
        assert "nvidia" not in told
        assert machine.run("ls /opt") == ""
