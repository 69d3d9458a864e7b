"""What the person who runs the tests has set does not reach them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_persons_own_settings_reach_no_test() -> None:
    own = {"LORA_TRAIN_CAPTIONER": "/models/blip", "LORA_TRAIN_DOWNLOAD": "1", "LORA_TRAIN_DATA": "/home/sara/data"}
    code = "import os; import tests.conftest; print([name for name in os.environ if name.startswith('LORA_TRAIN')])"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | own | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert not [name for name in own if name in os.environ]
