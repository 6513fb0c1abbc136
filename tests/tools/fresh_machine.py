"""Machines as a user has them after the first boot, in containers: Debian 12 with systemd as PID 1,
an ssh server, and a user `pi` who may sudo; nothing of Midge is there but what is put in.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import images
from systemd_machine import INIT, RUN

ROOT = Path(__file__).parents[2]
IMAGE = "midge-test/fresh:local"
USER = "pi"
PATIENCE_S = 240.0
_DOCKER_S = 500.0
"""For one command of Docker; to make the image takes longest."""

# Any of these machines may log in on any other: as after ssh-copy-id.
_DOCKERFILE = """\
FROM {base}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \\
    systemd systemd-sysv sudo openssh-client openssh-server
RUN systemctl mask getty.target console-getty.service
RUN useradd --create-home --shell /bin/bash {user} \\
    && echo '{user} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{user}
USER {user}
RUN mkdir -m 700 ~/.ssh && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519 && cd ~/.ssh \\
    && cp id_ed25519.pub authorized_keys && echo 'StrictHostKeyChecking accept-new' >config
USER root
"""


def image() -> str:
    """Make the image, or find its layers made."""
    with tempfile.TemporaryDirectory(prefix="midge-image-") as folder:
        text = _DOCKERFILE.format(base=images.base(), user=USER)
        (Path(folder) / "Dockerfile").write_text(text, encoding="utf-8")
        _docker("build", "--tag", IMAGE, folder)
    return IMAGE


class Machine:
    """Runs until it is closed."""

    def __init__(self, name: str, label: str, *options: str, systemd: bool = True) -> None:
        """Start it, with a label for its container and options of `docker run`."""
        init = INIT if systemd else ["sleep", "infinity"]
        named = ("--label", label, "--hostname", name)
        self.id = _docker("run", "--detach", *named, *RUN, *options, image(), *init).strip()
        if not systemd:
            return
        try:
            # Before that there is no systemd to ask whether it has booted.
            self.run("until test -S /run/systemd/private; do sleep 0.05; done", user="root")
            self.run("systemctl is-system-running --wait", user="root")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _docker("rm", "--force", "--volumes", self.id)

    @property
    def address(self) -> str:
        """Where others on its network reach it."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return _docker("inspect", "--format", form, self.id).strip()

    def run(self, command: str, folder: str = "~", user: str = USER, code: int = 0) -> str:
        """What somebody who logs in there types, in a folder; gives what it printed."""
        shell = ("bash", "-lc", f"cd {folder} && {command}")
        done = subprocess.run(
            ["docker", "exec", "--env", "COLUMNS=140", "--user", user, self.id, *shell],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == code, f"{command} gave {done.returncode}: {done.stdout}"
        return done.stdout

    def put_clone(self) -> None:
        """What `git clone` would make: the files of this repository, in ~/midge."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        with tempfile.TemporaryFile() as archive:
            tar: list[str | Path] = [
                "tar",
                "-C",
                ROOT,
                "--null",
                "-T",
                "-",
                "--ignore-failed-read",
                "-c",
            ]
            subprocess.run(tar, input=listed.stdout, stdout=archive, check=True)
            archive.seek(0)
            unpack = "mkdir -p ~/midge && tar -xC ~/midge"
            command = ["docker", "exec", "-i", "--user", USER, self.id, "bash", "-lc", unpack]
            subprocess.run(command, stdin=archive, check=True)


@contextmanager
def network(label: str) -> Iterator[str]:
    """A network with its own addresses, gone when it is left."""
    name = _docker("network", "create", "--label", label, f"midge-test-{os.getpid()}").strip()
    try:
        yield name
    finally:
        _docker("network", "rm", name)


def mounted_data() -> tuple[list[str], str]:
    """Options of `docker run` for the data of the built-in tasks, and the setting that names it."""
    folder = os.environ.get("MIDGE_DATA")
    if folder is None:
        return [], ""
    return ["--volume", f"{folder}:/srv/data:ro"], "MIDGE_DATA=/srv/data\n"


def _docker(*arguments: str) -> str:
    command = ["docker", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_DOCKER_S)
    assert done.returncode == 0, f"{' '.join(command)}: {(done.stdout + done.stderr)[-3000:]}"
    return done.stdout
