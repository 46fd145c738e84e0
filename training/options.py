"""What a training run may be told. Knows nothing of how it trains.

The defaults are the published recipe: BERT base, pooled output, dropout, a linear layer; AdamW, linear schedule.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from schemas.recipe import TextRecipe
from training.dataset import LabelColumn


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """How the model is trained; `warmup` is a share of all steps."""

    epochs: int = 10
    batch_size: int = 16
    learning_rate: float = 2e-5
    warmup: float = 0.0
    dropout: float = 0.3
    clip: float = 1.0
    weight_decay: float = 0.0


RECIPES = {
    "notebook": Hyperparameters(),
    "fast": Hyperparameters(epochs=2, learning_rate=1e-4, warmup=0.1, dropout=0.1),
}


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What decides the outcome of a run: the same options and data give the same version."""

    data: list[str]
    base_model: str
    label_column: LabelColumn
    recipe: TextRecipe
    hyperparameters: Hyperparameters
    seed: int
    balance: str
    split: tuple[float, float, float]
    group_column: str | None = None
    test_data: list[str] | None = None
    max_train_rows: int | None = None
    calibrate: bool = True
    skip_bad_rows: bool = False

    def arguments(self) -> dict[str, Any]:
        """Every option but those that a manifest has fields for."""
        return {name: value for name, value in asdict(self).items() if name not in ("data", "base_model", "recipe")}
