"""The manifest of a checkpoint version: what it is, where it came from, and the digest of every file beside it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from schemas.recipe import TextRecipe

MANIFEST_FORMAT = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LabelMetrics(BaseModel):
    """Quality for one label on held-out rows."""

    precision: float
    recall: float
    f1: float
    support: int


class Metrics(BaseModel):
    """Quality on held-out rows, as `fit` and `evaluate` report it."""

    accuracy: float
    macro_f1: float
    per_label: dict[str, LabelMetrics]
    ece: Annotated[float, Field(description="Expected calibration error over 15 bins of equal width.")]
    confusion: Annotated[list[list[int]], Field(description="Rows are true labels, columns predicted ones, in order.")]


class DataFingerprint(BaseModel):
    """Which rows a version was trained on."""

    files: list[str]
    sha256: Annotated[Sha256, Field(description="Over the (text, label) pairs used, in order.")]
    rows: dict[str, int]
    class_counts: dict[str, dict[str, int]]


class FileDigest(BaseModel):
    """One file of the version."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class CheckpointManifest(BaseModel):
    """manifest.json: written last, so that a version exists only when it is whole."""

    model_config = ConfigDict(protected_namespaces=())

    format: int = MANIFEST_FORMAT
    name: str
    version: Annotated[str, Field(pattern=r"^v\d{4,}$")]
    created_at: AwareDatetime
    labels: Annotated[list[str], Field(min_length=2, description="In the order of the classifier's outputs.")]
    recipe: TextRecipe
    base_model: str
    training: Annotated[dict[str, Any], Field(description="Every training argument; empty for an imported model.")]
    data: DataFingerprint | None = None
    code_version: str
    library_versions: dict[str, str]
    metrics: Annotated[Metrics | None, Field(description="On the test rows, as served.")] = None
    metrics_uncalibrated: Metrics | None = None
    thresholds: Annotated[
        dict[str, float],
        Field(description="Probability from which a label is given: 1/labels each is the largest one."),
    ] = {}
    parent: Annotated[str | None, Field(description="Version this one started from.")] = None
    files: dict[str, FileDigest]

    @model_validator(mode="after")
    def _readable(self) -> CheckpointManifest:
        if self.format != MANIFEST_FORMAT:
            raise ValueError(
                f"manifest format {self.format} is not {MANIFEST_FORMAT}: a newer version of this product wrote it"
            )
        return self

    @property
    def weights_digest(self) -> str:
        """sha256 of the weights: what results name as the model's digest."""
        return self.files["model.safetensors"].sha256


class Alias(BaseModel):
    """Where an alias points, and where it pointed before."""

    version: str
    previous: str | None = None
    changed_at: AwareDatetime


Aliases = dict[str, Alias]
