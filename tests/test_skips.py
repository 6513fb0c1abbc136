"""What `--may-skip` lets pass: CI relies on it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest

def test_that_runs():
    pass

def test_that_needs_an_engine():
    pytest.skip("needs a Docker engine that answers")

@pytest.mark.xfail(reason="known", strict=True)
def test_that_fails_as_told():
    raise AssertionError
"""
WHOLE_FILE = "import pytest\npytest.importorskip('no_such_package_as_this')\n"


@pytest.mark.parametrize(
    ("options", "code", "summary"),
    [
        ([], 0, "1 passed, 1 skipped, 1 xfailed"),
        (["--may-skip=Docker"], 0, "1 passed, 1 skipped, 1 xfailed"),
        (["--may-skip=mosquitto"], 1, "1 failed, 1 passed, 1 xfailed"),
        (["--may-skip="], 1, "1 failed, 1 passed, 1 xfailed"),
    ],
)
def test_a_skip_that_is_not_allowed_is_a_failure(
    tmp_path: Path, options: list[str], code: int, summary: str
) -> None:
    done = run(tmp_path, TESTS, options)
    assert (done.returncode, summary in done.stdout) == (code, True), done.stdout
    told = "must not be skipped here: Skipped: needs a Docker engine that answers"
    assert (told in done.stdout) == bool(code)


def test_so_is_a_file_that_is_skipped_as_a_whole(tmp_path: Path) -> None:
    assert run(tmp_path, WHOLE_FILE, []).returncode == 5  # Nothing was collected.
    done = run(tmp_path, WHOLE_FILE, ["--may-skip="])
    assert done.returncode == 2
    assert "no_such_package_as_this" in done.stdout


def run(home: Path, tests: str, options: list[str]) -> "subprocess.CompletedProcess[str]":
    shutil.copy(CONFTEST, home)
    (home / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *options], cwd=home, capture_output=True, text=True, check=False
    )
