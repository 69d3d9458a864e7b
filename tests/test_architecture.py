"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "lora_train"

# a package may import those of its own layer and of the layers before it
LAYERS = (
    {"errors", "atomic", "console", "cores", "first_bytes", "hashing", "jsons", "pattern_worker", "patterns", "tomls"},
    {"pickled", "showing", "tensors"},
    {"records"},
    {"config"},
    {"data", "models", "networks", "lorafile"},
    {"train", "prompt"},
    {"runs", "hosts", "demo"},
    {"ui", "api", "cli"},
)
RANK = {name: number for number, names in enumerate(LAYERS) for name in names}


def _imports(path: Path) -> set[str]:
    """The lora_train parts that a file imports, anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found.update(name for name in names)
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in _imports(path):
            pieces = name.split(".")
            if pieces[0] != "lora_train" or len(pieces) < 2 or part == "__init__":
                continue
            other = pieces[1]
            if part not in RANK or other not in RANK:
                continue
            if RANK[other] > RANK[part]:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


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
