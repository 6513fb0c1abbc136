"""A machine with systemd as PID 1, in a container: Debian 12 with Mosquitto, Midge in /opt/midge
and the units of deploy/ in place, none started.
"""

import re
import shutil
import subprocess
import tempfile
import threading
import tomllib
from pathlib import Path
from typing import Self

import images

ROOT = Path(__file__).parent.parent.parent
IMAGE = "midge-test/systemd:local"
PATIENCE_S = 60.0
_DOCKER_S = 500.0
"""For one command of Docker; to make the image takes longest."""
UNITS = "/etc/systemd/system"

_SOURCES = ("aggregator", "edge_node", "midge", "shared", "pyproject.toml", "README.md", "LICENSE")
# What changes least comes first: a layer that is there already is not made again.
_DOCKERFILE = """\
FROM {base}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive \\
    apt-get install -qq --no-install-recommends systemd dbus mosquitto
RUN systemctl disable mosquitto && systemctl mask getty.target console-getty.service
RUN python3 -m venv /opt/midge
COPY constraints.txt needs.txt ./
RUN /opt/midge/bin/pip install -q -r needs.txt -c constraints.txt {index}
COPY source source
RUN /opt/midge/bin/pip install -q --no-deps ./source
COPY units {units}
"""
RUN = [
    *("--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "DAC_READ_SEARCH"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--tmpfs", "/run:rw,mode=755", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"),  # noqa: S108 - in there
    *("--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    *("--env", "container=docker"),
]
# systemd hands credentials to a service through a mount, which must spread.
INIT = ["sh", "-c", "mount --make-rshared / && exec /lib/systemd/systemd"]


def image() -> str:
    """Make the image, or find it made."""
    with tempfile.TemporaryDirectory(prefix="midge-image-") as folder:
        context = Path(folder)
        index = f"--extra-index-url {url}" if (url := images.torch_index()) else ""
        text = _DOCKERFILE.format(base=images.base(), index=index, units=UNITS)
        (context / "Dockerfile").write_text(text)
        shutil.copy(ROOT / "constraints.txt", context)
        midge = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        needs = [*midge["dependencies"], *midge["optional-dependencies"]["torch"]]
        (context / "needs.txt").write_text("\n".join(needs))
        shutil.copytree(ROOT / "deploy/systemd", context / "units")
        for name in _SOURCES:
            source, target = ROOT / name, context / "source" / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        _docker("build", "--tag", IMAGE, folder)
    return IMAGE


class Machine:
    """Runs until it is closed."""

    def __init__(self, label: str) -> None:
        """Start it, with a label for its container, and wait until it has booted."""
        self._id = _docker("run", "--detach", "--label", label, *RUN, image(), *INIT).strip()
        try:
            # Before that there is no systemd to ask whether it has booted.
            self.run("sh", "-c", "until test -S /run/systemd/private; do sleep 0.05; done")
            self.run("systemctl", "is-system-running", "--wait")
            self.mark()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _docker("rm", "--force", "--volumes", self._id)

    def run(self, *command: str) -> str:
        """Run a command as root; gives what it printed, without the end of the last line."""
        return _docker("exec", self._id, *command).rstrip("\n")

    def put(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Make a file and its folders, which stay as they are when they are there."""
        script = f'mkdir -p "$(dirname {path})"; cat > {path}; chmod {mode:o} {path}'
        body = content.encode() if isinstance(content, str) else content
        _docker("exec", "--interactive", self._id, "sh", "-ec", script, stdin=body)

    def show(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit, as systemd has them."""
        values = self.run("systemctl", "show", *(f"--property={name}" for name in names), unit)
        found = dict(line.split("=", 1) for line in values.splitlines())
        return [found[name] for name in names]

    def mark(self) -> None:
        """From now on `until` and `journal` look at what comes next."""
        # Not a cursor: journalctl leaves out what it shows first after one that is on another unit.
        self._since = self.run("date", "+@%s.%6N")

    def journal(self, unit: str, *options: str) -> list[str]:
        """The lines on a unit since the mark, its own and those of systemd."""
        return self.run(*self._journal(unit), *options).splitlines()

    def until(self, unit: str, words: str) -> str:
        """Wait for a line with such words (a regular expression) on a unit, since the mark."""
        command = ["docker", "exec", self._id, *self._journal(unit), "--follow"]
        lines = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as journal:
            alarm = threading.Timer(PATIENCE_S, journal.kill)
            alarm.start()
            for line in journal.stdout or ():
                lines.append(line.rstrip("\n"))
                if re.search(words, line):
                    break
            else:
                told = "\n".join(lines[-30:])
                raise AssertionError(f"nothing like {words!r} on {unit}; the last lines:\n{told}")
            alarm.cancel()
            journal.kill()
        return lines[-1]

    def _journal(self, unit: str) -> tuple[str, ...]:
        options = ("--quiet", "--no-pager", "--no-tail", "--output=cat")
        return ("journalctl", *options, f"--unit={unit}", f"--since={self._since}")


def _docker(*arguments: str, stdin: bytes | None = None) -> str:
    command = ["docker", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=_DOCKER_S)
    told = (done.stdout + done.stderr).decode()[-3000:]
    assert done.returncode == 0, f"{' '.join(command)} gave {done.returncode}: {told}"
    return done.stdout.decode()
