"""Hugging Face's own classifiers of any other architecture: packed, padded, or equal lengths together.

Their bodies run over the packed row through an attention of ours (`transformers.AttentionInterface`); their heads see
first tokens only. Whether a model can be run so is not looked up but tried (trial.py).
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AutoModelForSequenceClassification
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging

from schemas.store import CheckpointError
from worker.engine.attention import Batch, attend
from worker.engine.device import translated_faults
from worker.engine.linear import prepare
from worker.engine.packing import similar
from worker.faults import OutOfMemory

ATTENTION = "review_worker_packed"


def said(error: Exception) -> str:
    """Its first line, and its name where that says more."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return line[:200] if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {line[:200]}"


def load_stock(directory: Path) -> nn.Module:
    """The checkpoint's own model class in float32, from safetensors only; CheckpointError where transformers has no
    such class, where weights are missing, and where it has no use for some of a layer's. OutOfMemory."""
    logging.disable_progress_bar()
    try:
        with translated_faults():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                directory, use_safetensors=True, trust_remote_code=False, local_files_only=True, dtype=torch.float32,
                output_loading_info=True,
            )  # fmt: skip
    except OutOfMemory:
        raise
    except Exception as error:  # safetensors, its config's checks and transformers each raise their own
        raise CheckpointError(f"{directory}: {said(error)}") from None
    if info["missing_keys"]:
        raise CheckpointError(f"{directory}: weights are missing: {', '.join(sorted(info['missing_keys']))[:200]}")
    # A pooler or a head of its training may be left over; what is left over of a layer is a model of another kind, as
    # relative positions are for transformers 5.
    if more := sorted(name for name in info["unexpected_keys"] if ".layer." in name or ".layers." in name):
        raise CheckpointError(
            f"{directory}: transformers' {type(model).__name__} has no use for these weights: {', '.join(more)[:200]}"
        )
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # it may still be the file, which may change
    loaded: nn.Module = model.eval()
    return loaded


class PaddedStock:
    """A stock model as it is, over padded batches of similar length: batch → probabilities."""

    def __init__(self, model: Any, together: bool = True) -> None:
        """`together`: whether different lengths may share a batch; else nothing is ever padded."""
        self._model = model
        self._pad = model.config.pad_token_id or 0
        self._together = together

    def __call__(self, batch: Batch) -> torch.Tensor:
        lengths = torch.tensor([group.length for group in batch.groups for _ in range(group.sequences)])
        equal = [(group.first, group.first + group.sequences) for group in batch.groups]
        results = []
        for first, end in similar(lengths.tolist()) if self._together else equal:
            width = torch.arange(int(lengths[first]), device=batch.ids.device)
            mask = width < lengths[first:end, None].to(batch.ids.device)
            rows = (batch.starts[first:end, None] + width).clamp_(max=len(batch.ids) - 1)
            ids = batch.ids[rows].masked_fill_(~mask, self._pad).long()
            logits = self._model(input_ids=ids, attention_mask=mask.long()).logits
            results.append(logits.float().softmax(-1))
        return torch.cat(results)


class PackedStock:
    """A stock model over the packed row: batch → probabilities. Any error where its classes do not play along."""

    def __init__(self, model: Any) -> None:
        AttentionInterface.register(ATTENTION, _attention)
        model.set_attn_implementation(ATTENTION)
        prefix = model.base_model_prefix
        setattr(model, prefix, _FirstTokens(getattr(model, prefix)))
        self._model = model

    def place(self, dtype: torch.dtype, device: torch.device) -> None:
        """Puts the body onto the device in `dtype` and prepares its products; pooler and head stay in float32."""
        body = getattr(self._model, self._model.base_model_prefix).body.to(dtype)
        self._model.to(device)
        for module in [module for module in body.modules() if type(module) is not nn.Linear]:  # each goes once replaced
            for name, child in list(module.named_children()):
                if type(child) is nn.Linear and child.bias is not None:
                    setattr(module, name, _Prepared(child))

    def __call__(self, batch: Batch) -> torch.Tensor:
        logits: torch.Tensor = self._model(input_ids=batch.ids[None], batch=batch).logits
        return logits.float().softmax(-1)


class _FirstTokens(nn.Module):
    """Stands in for a model's body: runs it over the packed row and gives the head first tokens only, in float32."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.pooler = getattr(body, "pooler", None)
        if self.pooler is not None:
            body.pooler = None  # it reads first tokens only, so it runs here
        self.body = body
        # RoBERTa and its kin count positions from behind the padding token's.
        counted = hasattr(body.embeddings, "create_position_ids_from_input_ids")
        self._shift = body.config.pad_token_id + 1 if counted else 0
        self._typed = "token_type_ids" in inspect.signature(body.forward).parameters

    def forward(self, input_ids: torch.Tensor, *, batch: Batch, **ignored: Any) -> BaseModelOutputWithPooling:
        inputs = {"input_ids": input_ids, "position_ids": batch.positions[None] + self._shift, "batch": batch}
        if self._typed:
            inputs["token_type_ids"] = torch.zeros_like(input_ids)
        rows = self.body(**inputs).last_hidden_state[0]
        first = rows.index_select(0, batch.starts).float()[:, None]
        pooled = self.pooler(first) if self.pooler is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=first, pooler_output=pooled)


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: object, **options: Any
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: [1, heads, rows, size] three times → [1, rows, heads, size]."""
    qkv = torch.stack((query[0], key[0], value[0])).permute(2, 0, 1, 3)
    return attend(qkv, options["batch"])[None], None


class _Prepared(nn.Module):
    """A linear layer with its weight laid out for the device."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._linear = prepare(linear.weight.detach(), linear.bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._linear(x)
