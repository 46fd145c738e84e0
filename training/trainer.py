"""Fine-tuning with transformers' Trainer: precision, progress, resuming. Knows nothing of data files or stores.

A run keeps one Trainer checkpoint an epoch in its work directory. Trainer would pickle the optimizer's state; here it
is kept as safetensors, and each epoch seeds its own random numbers, so that a resumed run equals one never stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from training.models import Classifier, accelerator, precision
from training.options import Hyperparameters

OPTIMIZER_FILE = "optimizer.safetensors"
Rows = list[dict[str, Any]]  # {"input_ids": [...], "labels": int}


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to: mean training loss, and quality on validation rows."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float


def train(
    classifier: Classifier,
    train_rows: Rows,
    validation_rows: Rows,
    parameters: Hyperparameters,
    *,
    seed: int,
    class_weights: Sequence[float] | None,
    work_dir: Path,
    resume: bool,
    progress: Progress,
) -> list[Epoch]:
    """Trains in place and leaves the weights of the epoch with the best validation accuracy in the model."""
    steps = -(-len(train_rows) // parameters.batch_size) * parameters.epochs
    arguments = TrainingArguments(
        output_dir=str(work_dir),
        num_train_epochs=parameters.epochs,
        per_device_train_batch_size=parameters.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=parameters.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(parameters.warmup * steps),
        weight_decay=parameters.weight_decay,
        max_grad_norm=parameters.clip,
        train_sampling_strategy="group_by_length",
        bf16=precision() == "bfloat16",
        use_cpu=accelerator() is None,
        dataloader_pin_memory=accelerator() == "cuda",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_steps=max(1, steps // parameters.epochs // 20),
        save_only_model=True,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        seed=seed,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        classifier.model,
        arguments,
        data_collator=DataCollatorWithPadding(classifier.tokenizer),
        train_dataset=train_rows,
        eval_dataset=validation_rows,
        processing_class=classifier.tokenizer,
        compute_loss_func=_weighted_loss(class_weights) if class_weights else None,
        compute_metrics=lambda found: {"accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))},
        callbacks=[_Resumable(seed), _Progress(progress, steps)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(last_checkpoint(work_dir)) if resume else None)
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)  # ends autocast in the model
    return _epochs(trainer.state.log_history)


def last_checkpoint(work_dir: Path) -> Path | None:
    """The newest whole checkpoint of an interrupted run: its optimizer's state is written last."""
    found = [path.parent for path in work_dir.glob(f"checkpoint-*/{OPTIMIZER_FILE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class _Resumable(TrainerCallback):  # type: ignore[misc]
    """Saves and restores the optimizer's state without pickle, and makes an epoch's random numbers its own."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        set_seed(self.seed + round(state.epoch or 0))

    def on_save(self, args: Any, state: Any, control: Any, *, optimizer: Any, lr_scheduler: Any, **_: Any) -> None:
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (directory / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nobody reads
        content = optimizer.state_dict()
        tensors = {f"{index}.{name}": value for index, kept in content["state"].items() for name, value in kept.items()}
        rest = {"param_groups": content["param_groups"], "scheduler": lr_scheduler.state_dict()}
        partial = directory / "optimizer.partial"
        save_file(tensors, partial, {"rest": json.dumps(rest)})
        partial.rename(directory / OPTIMIZER_FILE)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, optimizer: Any, lr_scheduler: Any, **_: Any
    ) -> None:
        if not state.global_step:
            return
        file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / OPTIMIZER_FILE
        with safe_open(file, "pt") as opened:
            rest = json.loads(opened.metadata()["rest"])
        kept: dict[int, dict[str, Any]] = {}
        for key, value in load_file(file).items():
            index, name = key.split(".")
            kept.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": kept, "param_groups": rest["param_groups"]})
        lr_scheduler.load_state_dict(rest["scheduler"])


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Shows steps and loss as they go, and a line an epoch."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self.progress = progress
        self.task = progress.add_task("training", total=steps, note="")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.progress.update(self.task, note=f"epoch {math.ceil(state.epoch)}, loss {logs['loss']:.3f}")

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch = _epochs(state.log_history)[-1]
        self.progress.console.print(
            f"epoch {epoch.epoch}/{round(args.num_train_epochs)}: training loss {epoch.train_loss:.3f}, "
            f"validation loss {epoch.validation_loss:.3f}, validation accuracy {epoch.validation_accuracy:.4f}"
        )


def _epochs(log: Sequence[dict[str, Any]]) -> list[Epoch]:
    losses: dict[int, list[float]] = {}
    for entry in log:
        if "loss" in entry:
            losses.setdefault(math.ceil(entry["epoch"]), []).append(entry["loss"])
    return [
        Epoch(epoch := round(entry["epoch"]), float(np.mean(losses[epoch])), entry["eval_loss"], entry["eval_accuracy"])
        for entry in log
        if "eval_loss" in entry
    ]


def _weighted_loss(weights: Sequence[float]) -> Any:
    import torch

    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        weight = torch.tensor(weights, device=labels.device)
        return torch.nn.functional.cross_entropy(outputs["logits"].float(), labels, weight)

    return loss
