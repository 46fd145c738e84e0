"""A tiny BERT with random weights, saved as a plain Hugging Face directory: trains in seconds, needs no network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

POSITIONS = 64


def make_base_model(directory: Path, texts: Iterable[str]) -> Path:
    """A pre-trained model without a classifier, its WordPiece vocabulary made from the texts."""
    return _save(directory, texts, "BertModel")


def make_classifier(directory: Path, texts: Iterable[str], labels: list[str], **config: Any) -> Path:
    """A classifier of these labels."""
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
    return _save(directory, texts, "BertForSequenceClassification", **names, **config)


def _save(directory: Path, texts: Iterable[str], architecture: str, **config: Any) -> Path:
    import torch
    import transformers
    from tokenizers import BertWordPieceTokenizer

    words = BertWordPieceTokenizer(lowercase=True)
    words.train_from_iterator(texts, vocab_size=500, show_progress=False)
    special = {name: f"[{name[:-6].upper()}]" for name in ("cls_token", "sep_token", "pad_token", "unk_token")}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, **special)
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(
        transformers.BertConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=POSITIONS,
            **config,
        )
    )
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
    return directory
