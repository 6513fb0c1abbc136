"""torchvision beside a torch without CUDA.

The x86 wheel of torchvision on the package index is built for CUDA. Beside a CPU-only torch its
library of operators does not load, which torchvision takes calmly, but then it dies of the missing
`torchvision::nms` while it describes that operator to torch's compiler. Declaring the two operators
that it describes is enough for its datasets and transforms.
"""

import importlib
import sys
from types import ModuleType

from shared.errors import ConfigError

_declared: list[object] = []
"""torch forgets what was declared when the Library object goes: this keeps it alive."""


def import_datasets() -> ModuleType:
    """`torchvision.datasets`; a torchvision that fits its torch is imported as it is."""
    try:
        return importlib.import_module("torchvision.datasets")
    except ModuleNotFoundError as error:
        raise ConfigError("downloading needs torchvision: pip install 'midge[torch]'") from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    # What the failed import left behind would be taken for whole.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    from torch import library

    operators = library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        operators.define(  # type: ignore[no-untyped-call]
            f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
    _declared.append(operators)
    return importlib.import_module("torchvision.datasets")
