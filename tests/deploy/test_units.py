"""The units as systemd reads them: no line it does not know, a sandbox, templates like the rest."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent.parent / "deploy/systemd"
INSTALLED = (
    "midge-node.service",
    "midge-aggregator.service",
    "midge-node@lab.service",
    "midge-aggregator@lab.service",
)
SYSTEM = Path("usr/lib/systemd/system")
EXPOSURE = 29
"""The largest one allowed, in tenths: `systemd-analyze security` is to say less than 3."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root directory with the units as an installer leaves them, and systemd's own."""
    if shutil.which("systemd-analyze") is None or not ("/" / SYSTEM).is_dir():
        pytest.skip("needs systemd-analyze, from the package systemd")
    root = tmp_path_factory.mktemp("root")
    shutil.copytree("/" / SYSTEM, root / SYSTEM, symlinks=True)
    (root / "lib").symlink_to("usr/lib")
    shutil.copytree(UNITS, root / "etc/systemd/system")
    program = root / "opt/midge/bin/python"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    return root


def analyze(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *arguments, f"--root={machine}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def security(machine: Path, unit: str) -> subprocess.CompletedProcess[str]:
    # The table has everything but the sum in JSON too; the threshold is about the sum.
    return analyze(
        machine, "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}", unit
    )


def test_systemd_understands_every_line(machine: Path) -> None:
    verified = analyze(machine, "verify", *INSTALLED)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_pauses_grow_where_systemd_can_do_that(machine: Path) -> None:
    added = machine / "etc/systemd/system/midge-.service.d/05-backoff.conf"
    shutil.copy(UNITS / "backoff.conf", added)
    said = analyze(machine, "verify", INSTALLED[0]).stderr.splitlines()
    added.unlink()
    version = int(analyze(machine, "--version").stdout.split()[1])
    unknown = [] if version >= 254 else ["RestartSteps", "RestartMaxDelaySec"]
    assert [line for line in said if "Unknown key" not in line] == []
    assert [key for key in unknown if f"'{key}'" in "".join(said)] == unknown
    assert len(said) == len(unknown)


@pytest.mark.parametrize("unit", INSTALLED)
def test_a_unit_is_exposed_to_little(machine: Path, unit: str) -> None:
    judged = security(machine, unit)
    assert judged.returncode == 0, judged.stdout


def test_what_is_not_ours_is_exposed(machine: Path) -> None:
    (machine / SYSTEM / "bare.service").write_text("[Service]\nExecStart=/opt/midge/bin/python\n")
    assert security(machine, "bare.service").returncode != 0


@pytest.mark.parametrize("service", ["node", "aggregator"])
def test_a_template_differs_only_in_where_things_are(service: str) -> None:
    template = meaning(f"midge-{service}@.service")
    template.remove(f"User=midge-{service[:4]}-%i")
    assert [line.replace("@%i", "").replace(" %i", "") for line in template] == meaning(
        f"midge-{service}.service"
    )
    # Whatever belongs to one service alone: its settings, three credentials, password, folders.
    mine = ("ExecStart", "LoadCredential", "EnvironmentFile", "StateDirectory", "CacheDirectory")
    own = [line for line in template if line.startswith(mine)]
    assert len(own) == 7
    assert all("@%i" in line for line in own)


def meaning(unit: str) -> list[str]:
    """A unit's lines without comments."""
    lines = (UNITS / unit).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]
