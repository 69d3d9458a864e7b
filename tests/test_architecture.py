"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lora_train"

# a room may import the rooms before its own; those of one line import nothing of each other
ORDER = """
    version cores console first_bytes links
    errors
    hashing jsons pattern_worker
    atomic lock patterns showing tomls yamls
    pickled
    tensors
    records
    config
    presets pictures
    captions
    device memory
    models
    networks
    lorafile
    data
    prepare
    train
    prompt
    demo
    hosts
    datasets
    runs
    api
    ui
    cli
    __main__
"""
RANK = {room: number for number, line in enumerate(ORDER.split("\n")) for room in line.split()}
FRONT = "__init__"


def _module(path: Path) -> str:
    """ "lora_train.config.table"; a package's front is the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == FRONT else parts)


MODULES = {_module(path): path for path in PACKAGE.rglob("*.py")}


def _imports(path: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inside or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


GRAPH = {name: (_imports(path) & MODULES.keys()) - {name} for name, path in MODULES.items()}
"""Which of our modules each imports."""


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else FRONT


def test_every_room_has_its_place() -> None:
    assert {_room(module) for module in MODULES} - {FRONT} == RANK.keys()


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in GRAPH.items()
        for other in others
        if _room(module) != _room(other) and FRONT not in (_room(module), _room(other))
        if RANK[_room(other)] >= RANK[_room(module)]
    ]
    assert not wrong


def test_no_files_import_each_other_in_a_circle() -> None:
    left = dict(GRAPH)
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_no_room_holds_more_than_its_share() -> None:
    lines: dict[str, int] = {}
    for module, path in MODULES.items():
        lines[_room(module)] = lines.get(_room(module), 0) + path.read_text(encoding="utf-8").count("\n")
    large = {room for room, count in lines.items() if count > 0.15 * sum(lines.values())}
    assert not large


def test_only_hosts_and_scripts_import_the_webui() -> None:
    wrong = [
        str(path)
        for path in PACKAGE.rglob("*.py")
        if "hosts" not in path.parts and any(n == "modules" or n.startswith("modules.") for n in _imports(path))
    ]
    assert not wrong


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, lora_train, lora_train.config, lora_train.runs.service, lora_train.cli, lora_train.runs.execute;"
        "print([n for n in ('torch', 'transformers', 'diffusers', 'gradio', 'PIL.Image') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(result.stdout)
    assert not set(loaded) & {"torch", "transformers", "diffusers", "gradio"}
