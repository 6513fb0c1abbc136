"""The rules of the house: who may import what, what no file may do, how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from shared.topics import TOPICS

ROOT = Path(__file__).parent.parent
PACKAGES = ("shared", "aggregator", "edge_node", "midge")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = {
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): path
    for path in FILES
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}

MAY_IMPORT = {
    "shared": {"shared"},
    "aggregator": {"aggregator", "shared"},
    "edge_node": {"edge_node", "shared"},
    "midge": set(PACKAGES),
}
"""Never across from one side to the other; nobody imports the workbench."""

CONFINED = {
    "paho": ("shared.client", "shared.session"),
    "msgpack": ("shared.codec",),
    "torch": ("shared.tasks.",),
    "torchvision": ("shared.tasks.",),
    "sklearn": ("shared.tasks.",),
    "amqtt": ("midge.",),
    "rich": ("midge.",),
    "matplotlib": ("midge.",),
    "cryptography": ("midge.authority", "shared.certificates"),
    "jinja2": ("midge.laboratory.page",),
}
"""Where a library may be imported: modules, or all below a package when it ends in a dot."""

IMPURE = {
    "asyncio",
    "concurrent",
    "datetime",
    "io",
    "multiprocessing",
    "os",
    "paho",
    "pathlib",
    "queue",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "torch",
}
SHELLS = {
    "aggregator.__main__",
    "aggregator.service",
    "aggregator.checkpoints",
    "aggregator.journal",
    "aggregator.spool",
    "aggregator.storage",
    "aggregator.evaluation",
    "edge_node.__main__",
    "edge_node.service",
    "edge_node.cleaning",
    "edge_node.outbox",
    "edge_node.manifest",
    "edge_node.own_data",
    "edge_node.pictures",
    "edge_node.samples",
    "edge_node.together",
    "edge_node.trainer",
    "shared.certificates",
    "shared.client",
    "shared.command",
    "shared.disk",
    "shared.inbox",
    "shared.notify",
    "shared.session",
    "shared.line",
    "shared.transport",
    "shared.waiter",
}
"""The modules that may touch link, clock, threads and files. Everything else of the two sides and
of what they share is pure."""
SETTINGS = {"shared.config", "aggregator.config", "edge_node.config"}
"""They name files, so they need the type."""

LONGEST = 400
LONGER = {
    "aggregator.coordinator": 520,  # one machine, one dispatch; what can stand alone already does
    "edge_node.agent": 480,  # the same on the other side
}
"""Modules that are longer all the same, why, and up to how many lines."""

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def imported(tree: ast.AST) -> set[str]:
    """Every module that is imported anywhere in a file, also within functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # `from aggregator import rules` means the module aggregator.rules.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name for name in inner if name in MODULES} or {node.module}
    return names


def top(name: str) -> str:
    return name.partition(".")[0]


IMPORTS = {name: imported(tree) for name, tree in TREES.items()}
PURE = sorted(
    name
    for name in MODULES
    if top(name) in ("shared", "aggregator", "edge_node")
    and not name.startswith("shared.tasks")
    and name not in SHELLS | SETTINGS
)


def test_the_walk_sees_the_whole_house() -> None:
    assert {top(name) for name in MODULES} == set(PACKAGES)
    assert {"aggregator.coordinator", "edge_node.agent", "shared.topics"} <= set(PURE)
    assert set(MODULES) >= SHELLS | SETTINGS | set(LONGER)
    assert "aggregator.rules" in IMPORTS["aggregator.intake"]


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name: str) -> None:
    ours = {top(one) for one in IMPORTS[name]} & set(PACKAGES)
    assert ours <= MAY_IMPORT[top(name)]


@pytest.mark.parametrize("library", CONFINED)
def test_a_library_stays_where_it_belongs(library: str) -> None:
    users = {name for name in MODULES if library in map(top, IMPORTS[name])}
    allowed = CONFINED[library]
    assert users <= {name for name in MODULES if name in allowed or name.startswith(allowed)}


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_touches_nothing(name: str) -> None:
    assert not {top(one) for one in IMPORTS[name]} & IMPURE
    ours = {one for one in IMPORTS[name] if one in MODULES}
    assert not ours & SHELLS, "it imports a shell"
    calls = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    assert not [
        call for call in calls if isinstance(call, ast.Name) and call.id in ("open", "print")
    ]


def test_the_time_of_day_is_only_written_down() -> None:
    """A clock that jumps changes nothing: the journal alone has the time of day, and what is said
    of certificates."""
    asks = {
        name
        for name in MODULES
        if top(name) != "midge"
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("time", "time"), ("datetime", "now"), ("date", "today")}
    }
    assert asks == {"aggregator.service", "shared.certificates"}


@pytest.mark.parametrize("name", MODULES)
def test_no_file_runs_what_it_read(name: str) -> None:
    assert not {top(one) for one in IMPORTS[name]} & FORBIDDEN_MODULES
    calls = [node.func for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in FORBIDDEN_CALLS]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_short_enough_to_read(name: str) -> None:
    lines = len(MODULES[name].read_text().splitlines())
    assert lines <= LONGER.get(name, LONGEST), "it is telling you something"
    assert name not in LONGER or lines > LONGEST, (
        "it is no exception any more: take it off the list"
    )


def test_every_module_says_what_it_is_for() -> None:
    assert not [name for name, tree in TREES.items() if ast.get_docstring(tree) is None]


@pytest.mark.parametrize("pattern", [rule.pattern for rule in TOPICS])
def test_every_topic_is_documented(pattern: str) -> None:
    protocol = ROOT / "docs" / "protocol.md"
    assert protocol.exists(), "docs/protocol.md is missing"
    assert f"`{pattern}`" in protocol.read_text(), "docs/protocol.md does not speak of this topic"


@pytest.mark.parametrize("service", ["aggregator.service", "edge_node.service"])
def test_a_service_that_starts_imports_nothing_heavy(service: str) -> None:
    """A waiting node is small; it has neither torch nor any part of the workbench."""
    heavy = ["torch", "torchvision", "sklearn", "matplotlib", "amqtt", "rich.live", "midge"]
    code = f"import sys, {service}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "[]"
