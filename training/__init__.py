"""The training job: rated reviews in, versioned checkpoints out."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("review-stream-classifier")
except PackageNotFoundError:  # running from a tree that was never installed
    __version__ = "0+unknown"
