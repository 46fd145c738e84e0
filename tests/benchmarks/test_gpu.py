"""What tests/integration shows of the engine on the processor, on a GPU: `pytest tests/benchmarks/test_gpu.py` there.

Skipped without one; no part of `make test`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.store import Checkpoint, CheckpointError
from tests.fakes.classifiers import LONGEST, load_engine, make_checkpoint, reference, reviews
from worker.engine import attention, bert, linear, load_engines
from worker.engine.cuda import GRAPH_ROWS
from worker.settings import EngineSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
NEAR = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}
"""The fakes' weights are fifteen times as large as a trained model's, and so is what rounding does."""
MODELS = ["Bert", "Roberta", "Electra", "DistilBert", "DebertaV2"]
BATCHES = [[1], [LONGEST] * 40, [1] * 300, [3, 17, LONGEST], list(range(1, LONGEST + 1)) * 12, [2, 2, 9], [30] * 400]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("bert"))


@pytest.fixture(params=["kernels", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ours, and torch's own as on a machine without a C compiler."""
    if request.param == "torch":
        for module in (attention, bert, linear):
            monkeypatch.setattr(module, "gpu_kernels", lambda device: None)
    else:
        assert attention.gpu_kernels(torch.device("cuda", 0)), "the kernels cannot be used here"
    yield


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("kernels")
def test_every_answer_is_the_padded_model_s(tmp_path: Path, name: str, dtype: str) -> None:
    checkpoint = make_checkpoint(tmp_path, name)
    engine = load_engine(checkpoint, EngineSettings(device="cuda", dtype=dtype, token_budget=20_000))
    engine.warm_up()
    assert engine.dtype == dtype
    for seed, lengths in enumerate(BATCHES):  # each after a batch of another shape: graphs and kernels alternate
        sequences = reviews(lengths, seed)
        expected = reference(checkpoint.directory, sequences)
        assert np.abs(engine.classify(sequences) - expected).max() < NEAR[dtype]
    assert engine.self_test()


def test_engines_of_one_gpu_answer_at_once(checkpoint: Checkpoint) -> None:
    engines = load_engines(checkpoint, EngineSettings(device="cuda", dtype="bfloat16"))
    for engine in engines:
        engine.warm_up()
    assert len(engines) == 2 and engines[0].token_budget == engines[1].token_budget > max(GRAPH_ROWS) // 16
    batches = [reviews([seed % LONGEST + 1] * (1 + seed * 7 % 500), seed) for seed in range(60)]
    expected = [engines[0].classify(batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        for index, found in enumerate(pool.map(lambda i: engines[i % 2].classify(batches[i]), range(60))):
            assert np.abs(found - expected[index]).max() < 0.02


def test_an_id_that_is_not_in_the_vocabulary_is_no_end_of_the_device(checkpoint: Checkpoint) -> None:
    engine = load_engine(checkpoint, EngineSettings(device="cuda", token_budget=4096))
    engine.warm_up()
    with pytest.raises(ValueError, match="vocabulary"):
        engine.classify([[5, 999_999]])
    assert engine.self_test()


def test_what_does_not_fit_is_refused_and_what_serves_is_untouched(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(checkpoint, EngineSettings(device="cuda", token_budget=4096))
    engine.warm_up()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50_000, 1 << 40))
    with pytest.raises(CheckpointError, match="fit"):
        load_engines(checkpoint, EngineSettings(device="cuda"), successor=True)
    assert engine.self_test()
