"""`python -m lora_train`."""

import sys

try:
    from lora_train.cli import main

    code = main()
except KeyboardInterrupt:  # so early, or so late, that no command has caught it
    print("\nAborted.", file=sys.stderr)
    code = 130
sys.exit(code)
