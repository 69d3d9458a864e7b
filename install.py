"""Run by the WebUI at each start: installs what is missing, and never changes a version that is there.

Standard library only. What it does is printed; what cannot be installed is reported in the tab.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OLD_TRANSFORMERS = (4, 41)
"""Before this version only diffusers up to 0.31.0 works as a whole (measured; see docs)."""

TRIES, PAUSE_S = 2, 3
"""How many times a package index that does not answer is tried, and the pause in seconds."""
CONNECT_S, WHOLE_S = 10, 300
"""How long pip may wait for an answer, and how long it may take in all, in seconds: a WebUI must start without a
network, too."""
UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Read timed out|Failed to establish|[Nn]ame resolution|getaddrinfo|"
    r"Connection ?(reset|refused|aborted|broken)|ProxyError|SSLError|Network is unreachable|"
    r"RemoteDisconnected|from versions: none"
)
"""What pip says of an index that cannot be reached; its last line is about the package even then."""

NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
VERSION = re.compile(
    r"(\d+!)?\d+(\.\d+)*([._-]?(a|b|c|rc|alpha|beta|pre|preview|post|rev|r|dev)[._-]?\d*)*(-\d+)?"
    r"(\+[a-z0-9]+([._-][a-z0-9]+)*)?",
    re.IGNORECASE,
)
"""What pip accepts as a version; it refuses a whole list of constraints for one that is not."""


def installed() -> dict[str, str]:
    """Names and versions of all installed distributions, as they are imported.

    What a failed pip left behind does not count (`~umpy-1.23.5.dist-info`). Where a file of metadata is missing or
    says nothing, the name of its folder does. Of a package that is there twice the first on the path counts, and in
    one folder the one whose files are there.
    """
    found: dict[str, tuple[str, Path, importlib.metadata.Distribution]] = {}
    for name, version, place, distribution in _distributions():
        before = found.get(name)
        if before is None or (before[1] == place and _files_there(distribution) > _files_there(before[2])):
            found[name] = version, place, distribution
    return {name: version for name, (version, _, _) in found.items()}


def _distributions() -> Iterator[tuple[str, str, Path, importlib.metadata.Distribution]]:
    """Name, version ("" where nothing says it), folder of each distribution that is no leftover."""
    for distribution in importlib.metadata.distributions():
        path = Path(str(getattr(distribution, "_path", "") or ""))
        if path.name and not path.name[0].isalnum():
            continue
        name, version = _said(distribution, "Name"), _said(distribution, "Version")
        if path.suffix in (".dist-info", ".egg-info"):
            named, _, rest = path.stem.partition("-")
            name, version = name or named, version or rest.partition("-")[0]
        if name:
            yield re.sub(r"[-_.]+", "-", name).lower(), version, path.parent, distribution


def _said(distribution: importlib.metadata.Distribution, key: str) -> str:
    try:
        return str(distribution.metadata[key] or "").strip()
    except Exception:  # METADATA is missing or cannot be read: each Python answers differently
        return ""


def _files_there(distribution: importlib.metadata.Distribution) -> float:
    """The share of the files it lists that are there as listed."""
    try:
        listed = [file for file in distribution.files or () if file.size is not None]
        there = sum(Path(str(file.locate())).stat().st_size == file.size for file in listed if _is_file(file))
        return there / max(1, len(listed))
    except Exception:
        return 0.0


def _is_file(file: importlib.metadata.PackagePath) -> bool:
    with suppress(OSError, ValueError):
        return Path(str(file.locate())).is_file()
    return False


def wanted(present: dict[str, str]) -> list[str]:
    """Requirements that are absent, in versions that fit what is present."""
    if "diffusers" in present:
        return []
    parts = present.get("transformers", "0").split(".")[:2]
    version = tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)
    return ["diffusers==0.31.0" if version < OLD_TRANSFORMERS else "diffusers>=0.31,<0.36"]


def constraints_of(present: dict[str, str]) -> list[str]:
    """Lines that pin every distribution to its version, `+cu121` and the like included."""
    usable = [(n, v) for n, v in sorted(present.items()) if NAME.fullmatch(n) and VERSION.fullmatch(v)]
    return [f"{name}=={version}" for name, version in usable]


def main() -> None:
    """Install what is absent, with everything else pinned to its version. Whatever happens, the WebUI starts."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            with suppress(OSError, ValueError):
                reconfigure(errors="backslashreplace")  # a console with few characters is no reason to fail
    try:
        _install()
    except Exception as error:
        _report_failure("what it needs", f"{type(error).__name__}: {error}")


def _install() -> None:
    present = installed()
    missing = wanted(present)
    if not missing:
        return
    names = ", ".join(missing)
    print(f"LoRA Train: installing {names}; nothing that is installed is changed", flush=True)
    failure = _pip(missing, constraints_of(present))
    if failure:
        _report_failure(names, failure)
        return
    importlib.invalidate_caches()
    added = sorted(f"{name} {version}" for name, version in installed().items() if name not in present)
    print(f"LoRA Train: installed {', '.join(added)}")


def _report_failure(names: str, reason: str) -> None:
    print(f"LoRA Train: {names} could not be installed: {reason}")
    print("LoRA Train: the tab will say what is missing; nothing else is affected.")


def _pip(missing: list[str], constraints: list[str]) -> str:
    """Run pip, again where the index does not answer. Returns why it failed, or ""."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--retries", "0", "--timeout", str(CONNECT_S)]
    failure, end = "", time.monotonic() + WHOLE_S
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "constraints.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in constraints)
        for number in range(TRIES):
            if number:
                time.sleep(PAUSE_S)
            try:
                done = subprocess.run(
                    [*command, "--constraint", path, *missing],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    encoding="utf-8",
                    errors="replace",
                    env={**os.environ, "PYTHONIOENCODING": "utf-8"},
                    timeout=max(1, end - time.monotonic()),
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return f"pip had not finished after {WHOLE_S} seconds; the next start tries again"
            if not done.returncode:
                return ""
            failure = (done.stderr.strip().splitlines() or [f"pip ended with code {done.returncode}"])[-1]
            if not UNREACHABLE.search(done.stderr):
                return failure
    return f"the package index cannot be reached ({failure}); the next start tries again"


if __name__ == "__main__":
    main()
