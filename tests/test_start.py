"""start.py, as far as it goes without installing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

START = Path(__file__).parents[1] / "start.py"


def test_it_imports_the_standard_library_only() -> None:
    tree = ast.parse(START.read_text(encoding="utf-8"))
    names = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert names <= sys.stdlib_module_names


def test_without_a_command_it_says_how() -> None:
    for arguments, code in (([], 2), (["nonsense"], 2), (["--help"], 0)):
        result = subprocess.run([sys.executable, str(START), *arguments], capture_output=True, text=True)
        assert result.returncode == code
        assert "start.py demo" in result.stdout + result.stderr
