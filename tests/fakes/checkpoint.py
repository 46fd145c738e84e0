"""A checkpoint with random weights: real files and digests, a real tokenizer and model, no training and no network."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from schemas.manifest import CheckpointManifest
from schemas.recipe import TextRecipe
from schemas.store import MANIFEST, digest

LABELS = ["negative", "positive"]


def make_checkpoint(directory: Path, texts: Iterable[str], recipe: TextRecipe | None = None) -> Path:
    """Writes version v0001 of a small BERT whose answers differ from text to text."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    directory.mkdir(parents=True)
    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator(texts, vocab_size=4000, show_progress=False)
    special = {name: f"[{name[:-6].upper()}]" for name in ("cls_token", "sep_token", "pad_token", "unk_token")}
    PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, **special).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=4000,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=256,
        initializer_range=0.3,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )
    BertForSequenceClassification(config).save_pretrained(directory)
    manifest = CheckpointManifest(
        name="random",
        version="v0001",
        created_at=datetime.now(UTC),
        labels=LABELS,
        recipe=recipe or TextRecipe(),
        base_model="none",
        training={},
        code_version="0",
        library_versions={},
        files={path.name: digest(path) for path in sorted(directory.iterdir())},
    )
    (directory / MANIFEST).write_text(manifest.model_dump_json())
    return directory
