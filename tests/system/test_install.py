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
# The round is over sooner; everything else is as installed.
FEW = "MIDGE_NODE_SHARD__PER_LABEL=20\n"


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
        Machine("raspberrypi", docker, "--network", lan, *data) as node,
    ):
        host.put_clone()
        # Nothing else is done behind the README's back: where MNIST is, as none can be downloaded.
        for machine, side, more in ((host, "aggregator", ""), (node, "node", FEW)):
            machine.run("mkdir /etc/midge", user="root")
            machine.run(f"printf '{setting}{more}' >/etc/midge/{side}.env", user="root")
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
    told = site.type(" && ".join(status))
    assert re.search(r"kitchen .* counted in version \d", told), told


def test_again_changes_nothing(site: Site) -> None:
    folders = "/opt/midge /etc/midge /etc/systemd ~/midge $(ls -d /etc/mosquitto)"
    everything = f"sudo find {folders} -printf '%p %T@ %m %u\\n'"
    pids = "systemctl show --property MainPID midge-{aggregator,node} mosquitto"
    for machine, command in ((site.host, TYPED[0]), (site.node, TYPED[2].rpartition("sudo ")[2])):
        before = machine.run(everything), machine.run(pids)
        if machine is site.host:
            site.type(command)
        else:
            machine.run(f"sudo {command}")
        assert (machine.run(everything), machine.run(pids)) == before


def test_a_node_that_was_taken_back_stays_out(site: Site) -> None:
    site.host.run("midge certs revoke kitchen && sudo deploy/install-aggregator.sh", "~/midge")
    told = site.node.run("sudo journalctl -fu midge-node | timeout 60 grep -m 1 revoked")
    assert "kitchen" in told


def test_uninstalled_leaves_only_what_it_says(site: Site) -> None:
    said = site.node.run("sudo midge/deploy/install-node.sh --uninstall")
    assert "kept /etc/midge/node* and /var/lib/midge-node" in said
    look = "sudo find / -xdev -path /home -prune -o -path /var/log -prune -o -name '*midge*' -print"
    left = set(site.node.run(look).split())
    assert left == {"/etc/midge", "/var/lib/midge-node", "/var/lib/private/midge-node"} | {
        path for path in left if path.startswith("/var/cache/")
    }
    assert "--yes" in site.node.run("sudo midge/deploy/install-node.sh --uninstall --purge", code=1)
    site.node.run("sudo midge/deploy/install-node.sh --uninstall --purge --yes")
    assert site.node.run(look) == ""
