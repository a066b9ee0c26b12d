"""`python -m omni.live`."""

import sys

from omni.live.command import main

if __name__ == "__main__":
    sys.exit(main())
