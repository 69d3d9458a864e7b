"""Run by the WebUI at each start: installs what is missing, and never changes a version that is there.

Standard library only. What it does is printed; what cannot be installed is told in the tab.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tempfile

OLD_TRANSFORMERS = (4, 41)
"""Before this version only diffusers up to 0.31.0 works as a whole (measured; see docs)."""


def installed() -> dict[str, str]:
    """Names and versions of all installed distributions."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            found[name.lower().replace("_", "-")] = distribution.version
    return found


def wanted(present: dict[str, str]) -> list[str]:
    """Requirements that are absent, in versions that fit what is present."""
    if "diffusers" in present:
        return []
    parts = present.get("transformers", "0").split(".")[:2]
    version = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)
    return ["diffusers==0.31.0" if version < OLD_TRANSFORMERS else "diffusers>=0.31,<0.36"]


def main() -> None:
    """Install what is absent, with everything else held at its version."""
    present = installed()
    missing = wanted(present)
    if not missing:
        return
    print(f"LoRA Train: installing {', '.join(missing)}; nothing that is installed is changed")
    with tempfile.TemporaryDirectory() as folder:
        constraints = os.path.join(folder, "constraints.txt")
        with open(constraints, "w", encoding="utf-8") as file:
            file.writelines(f"{name}=={version}\n" for name, version in sorted(present.items()) if "+" not in version)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", constraints, *missing]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        print(f"LoRA Train: {', '.join(missing)} could not be installed: {last}")
        print("LoRA Train: the tab will say what is missing; nothing else is affected.")
        return
    after = installed()
    added = sorted(f"{name} {version}" for name, version in after.items() if name not in present)
    print(f"LoRA Train: installed {', '.join(added)}")


if __name__ == "__main__":
    main()
