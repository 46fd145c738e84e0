"""The checkpoint's tokenizer, set as its text recipe says. Knows nothing of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.recipe import configure
from schemas.store import Checkpoint, CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The Rust tokenizer of `tokenizer.json`, truncating as the recipe says and never padding."""
    from tokenizers import Tokenizer

    path = checkpoint.directory / "tokenizer.json"
    if "tokenizer.json" not in checkpoint.manifest.files:
        raise CheckpointError(f"{path}: missing; only the fast tokenizers of Hugging Face are read")
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception
        raise CheckpointError(f"{path}: {error}") from None
    configure(tokenizer, checkpoint.manifest.recipe)
    return tokenizer
