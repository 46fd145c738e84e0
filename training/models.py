"""Loading, running and saving Hugging Face classifiers. Knows nothing of data files, training or stores.

Weights come from safetensors files only, and code that a model brings along is never run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schemas.recipe import TextRecipe, Tokens, configure, tokenize
from training.calibrate import Calibration
from training.errors import InputError

HUB_FILES = ["model*.safetensors", "*.json", "*.txt", "*.model"]
TOKENS_PER_BATCH = 8192
TEXTS_PER_CHUNK = 10_000  # encodings are a hundred times larger than their ids


@dataclass(frozen=True, slots=True)
class Classifier:
    """A sequence classification model with its tokenizer, both transformers' own."""

    model: Any
    tokenizer: Any

    @property
    def labels(self) -> list[str]:
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    @property
    def longest(self) -> int:
        """Most tokens the model can read, special ones included."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if not positions:
            return int(self.tokenizer.model_max_length)
        table = [module for name, module in self.model.named_modules() if name.endswith("position_embeddings")]
        padding = getattr(table[0], "padding_idx", None) if table else None
        return int(positions) - (0 if padding is None else padding + 1)  # RoBERTa counts on from the padding's position

    @property
    def usual_length(self) -> int:
        """Tokens that its makers meant it to read, at most 512."""
        return int(min(self.longest, self.tokenizer.model_max_length, 512))

    def require_length(self, max_length: int) -> None:
        if max_length > self.longest:
            raise InputError(f"--max-length {max_length}: the model reads at most {self.longest} tokens")

    def tokens(self, recipe: TextRecipe, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of texts, as the worker makes them."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.tokenizer.backend_tokenizer.to_str())
        configure(tokenizer, recipe)
        chunks = (texts[start : start + TEXTS_PER_CHUNK] for start in range(0, len(texts), TEXTS_PER_CHUNK))
        return [tokens for chunk in chunks for tokens in tokenize(tokenizer.encode_batch, recipe, chunk)]

    def logits(self, tokens: Sequence[Tokens], advance: Callable[[int], None] = lambda rows: None) -> np.ndarray:
        """float32 logits (rows, labels) in the order of `tokens`; `advance` is told the rows of each batch done."""
        import torch

        device = torch.device(accelerator() or "cpu")
        self.model.to(device).eval()
        result = np.empty((len(tokens), self.model.config.num_labels), dtype=np.float32)
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index].ids))
        while order:
            width = len(tokens[order[-1]].ids)
            batch = [order.pop() for _ in range(min(len(order), max(1, TOKENS_PER_BATCH // width)))]
            encoded = self.tokenizer.pad({"input_ids": [tokens[index].ids for index in batch]}, return_tensors="pt")
            with torch.inference_mode():
                result[batch] = self.model(**encoded.to(device)).logits.float().cpu().numpy()
            advance(len(batch))
        return result

    def fold(self, calibration: Calibration) -> None:
        """Puts a calibration into the weight and bias of the classifier's last layer."""
        import torch

        linear = [module for module in self.model.modules() if isinstance(module, torch.nn.Linear)][-1]
        if linear.out_features != self.model.config.num_labels or linear.bias is None:
            raise InputError(f"calibration cannot go into a {type(self.model).__name__}; give --no-calibrate")
        with torch.no_grad():
            linear.weight.div_(calibration.temperature)
            linear.bias.div_(calibration.temperature).add_(torch.tensor(calibration.bias, device=linear.bias.device))

    def save(self, directory: Path, recipe: TextRecipe) -> None:
        """Writes the plain Hugging Face layout, weights in one file; stock tokenizers then truncate as the recipe."""
        self.tokenizer.backend_tokenizer.no_padding()
        self.tokenizer.backend_tokenizer.no_truncation()
        self.tokenizer.model_max_length = recipe.max_length
        self.tokenizer.truncation_side = recipe.truncation_side
        self.model.cpu().save_pretrained(directory, max_shard_size="1TB")
        self.tokenizer.save_pretrained(directory)


def load_base(model: str, labels: Sequence[str], dropout: float, seed: int) -> Classifier:
    """A classifier for these labels over a pre-trained model, dropout between its pooled output and linear layer."""
    import torch

    directory = local_directory(model)
    config = _config(directory, model)
    config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    for name in ("classifier_dropout", "seq_classif_dropout"):
        if hasattr(config, name):
            setattr(config, name, dropout)
    torch.manual_seed(seed)  # the linear layer starts at random
    return _load(directory, model, config)[0]


def load_classifier(model: str) -> Classifier:
    """An existing classifier as it is; InputError where it is none."""
    directory = local_directory(model)
    config = _config(directory, model)
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        raise InputError(f"{model}: gives no probabilities of two or more labels ({config.problem_type})")
    classifier, missing = _load(directory, model, config)
    if missing:
        raise InputError(f"{model}: no trained classifier, {sorted(missing)[0]} is not among its weights")
    return classifier


def local_directory(model: str) -> Path:
    """The directory of a model, fetched from the Hub where it is none here; it must hold safetensors weights."""
    directory = Path(model).expanduser()
    if not directory.is_dir():
        directory = _from_hub(model)
    if not (directory / "config.json").is_file():
        raise InputError(f"{model}: no model, config.json is missing")
    if not any(directory.glob("model*.safetensors")):
        pickles = [path.name for path in directory.glob("*.bin")]
        found = f"{pickles[0]} is a pickle, and " if pickles else "no model.safetensors; "
        raise InputError(f"{model}: {found}only safetensors weights are read")
    return directory


def accelerator() -> str | None:
    """The device to use other than the CPU, if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None


def precision() -> str:
    """bfloat16 where the processor multiplies it in hardware, else float32; weights stay float32 either way."""
    import torch

    match accelerator():
        case "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        case None:
            fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        case _:
            fast = False
    return "bfloat16" if fast else "float32"


def quiet() -> None:
    """Keeps transformers' own bars and advice out of the output."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model, allow_patterns=HUB_FILES))
    except HFValidationError:
        raise InputError(f"{model}: no such directory, and no name of a model on the Hub") from None
    except Exception as error:  # the Hub's client raises whatever its HTTP library does
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{model}: no such directory, and the Hub did not give it: {reason}") from None


def _config(directory: Path, model: str) -> Any:
    from transformers import AutoConfig

    try:
        if "auto_map" in json.loads((directory / "config.json").read_bytes()):
            raise InputError(f"{model}: needs code of its own (auto_map in config.json), which is never run")
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{model}: config.json: {str(error).splitlines()[0]}") from None


def _load(directory: Path, model: str, config: Any) -> tuple[Classifier, set[str]]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    quiet()
    try:
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # safetensors, tokenizers and transformers each raise their own
        raise InputError(f"{model}: {next(iter(str(error).splitlines()), type(error).__name__)}") from None
    # A pooler or a head may be left over; what is left over of a layer is a model of another kind, as with relative
    # positions, which transformers 5 does not have.
    if more := sorted(name for name in info["unexpected_keys"] if ".layer." in name or ".layers." in name):
        raise InputError(f"{model}: transformers' {type(loaded).__name__} has no use for its weight {more[0]}")
    if not tokenizer.is_fast:
        raise InputError(f"{model}: its tokenizer has no tokenizer.json")
    return Classifier(loaded, tokenizer), set(info["missing_keys"])
