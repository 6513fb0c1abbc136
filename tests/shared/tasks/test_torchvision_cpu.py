import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from shared.errors import ConfigError
from shared.tasks import torchvision_cpu


def test_a_torchvision_that_fits_is_imported_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fitting = ModuleType("torchvision.datasets")
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fitting)
    monkeypatch.setattr(torchvision_cpu, "_declared", [])
    assert torchvision_cpu.import_datasets() is fitting
    assert torchvision_cpu._declared == []


def test_a_missing_torchvision_gets_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(ConfigError, match="pip install"):
        torchvision_cpu.import_datasets()


def test_another_error_of_torchvision_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('something else')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_cpu.import_datasets()


def test_datasets_and_transforms_work_whatever_torch_is_here() -> None:
    code = (
        "from shared.tasks.torchvision_cpu import import_datasets\n"
        "data = import_datasets().FakeData(2, (1, 8, 8), 3)\n"
        "from torchvision.transforms import v2\n"
        "assert v2.ToImage()(data[0][0]).shape == (1, 8, 8)\n"
        "import_datasets()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
