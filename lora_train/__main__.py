"""`python -m lora_train`."""

import sys

try:
    from lora_train.cli import main

    code = main()
except KeyboardInterrupt:  # too early or too late for a command to catch it
    print("\nAborted.", file=sys.stderr)
    code = 130
sys.exit(code)
