"""The streaming service and the tools around it."""

import time
from importlib.metadata import PackageNotFoundError, version

STARTED = time.monotonic()

try:
    __version__ = version("review-stream-classifier")
except PackageNotFoundError:  # running from a tree that was never installed
    __version__ = "0+unknown"
