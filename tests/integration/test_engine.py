"""The packed engine gives what the stock padded model gives, in whatever company a review comes."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.store import Checkpoint
from tests.fakes.classifiers import LONGEST, load_engine, make_checkpoint, plain_varlen, reference, reviews
from worker.engine import Engine, attention, linear, load_engines
from worker.engine.attention import Batch
from worker.engine.packing import Slots, pack
from worker.faults import DeviceFault, OutOfMemory
from worker.settings import EngineSettings

FLOAT32 = EngineSettings(device="cpu", dtype="float32", token_budget=256)
BFLOAT16 = FLOAT32.model_copy(update={"dtype": "bfloat16"})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> Engine:
    engine = load_engine(checkpoint, FLOAT32)
    engine.warm_up()
    return engine


@pytest.fixture(params=["fused", "plain"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this machine, and those of one without oneDNN."""
    if request.param == "plain":
        monkeypatch.setattr(linear, "has_fused_kernels", lambda dtype: False)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.usefixtures("products")
def test_equals_the_padded_model(tmp_path: Path, activation: str) -> None:
    checkpoint = make_checkpoint(tmp_path, hidden_act=activation)
    sequences = reviews([1, LONGEST, 7, 7, 2, 33, 7, 1, 12])
    expected = reference(tmp_path, sequences)
    assert np.ptp(expected[:, 0]) > 0.1, "a model that says the same to all shows nothing"
    assert np.abs(load_engine(checkpoint, FLOAT32).classify(sequences) - expected).max() < 1e-5
    assert 1e-5 < np.abs(load_engine(checkpoint, BFLOAT16).classify(sequences) - expected).max() < 0.02


OTHERS = {
    "Roberta": ({}, "PackedStock"),
    "Electra": ({}, "PackedStock"),
    "DistilBert": ({}, "PackedStock"),
    "Bert": ({"hidden_act": "silu"}, "PackedStock"),
    "DebertaV2": ({}, "PaddedStock"),
    "Albert": ({}, "PaddedStock"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_run_packed_where_they_can(tmp_path: Path, name: str) -> None:
    changes, how = OTHERS[name]
    checkpoint = make_checkpoint(tmp_path, name, **changes)
    sequences = reviews([1, LONGEST, 7, 7, 2, 33, 7, 1, 12])
    expected = reference(tmp_path, sequences)
    engine = load_engine(checkpoint, FLOAT32)
    assert type(engine._forward._model).__name__ == how
    assert np.abs(engine.classify(sequences) - expected).max() < 1e-5
    low = load_engine(checkpoint, BFLOAT16)
    assert type(low._forward._model).__name__ == how
    assert 1e-5 < np.abs(low.classify(sequences) - expected).max() < 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [32, 64])
def test_attention_of_every_arithmetic_stays_within_each_sequence(dtype: torch.dtype, size: int) -> None:
    torch.manual_seed(0)
    packed = pack(reviews([1, 40, 7, 7, 7, 3]))
    batch = Batch.of(packed)
    qkv = torch.randn(len(packed.ids), 3, 4, size)
    offsets = torch.tensor([*packed.starts, packed.tokens])
    expected = plain_varlen(*qkv.unbind(1), offsets, offsets)
    qkv = qkv.to(dtype)
    q, k, v = qkv.unbind(1)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    first = attention.attend_first(q[packed.starts], k, v, batch)
    assert (first.float() - expected[packed.starts]).abs().max() < tolerance
    context = attention.attend(qkv, batch)
    assert (context.float() - expected)[: packed.tokens].abs().max() < tolerance
    assert not context[packed.tokens :].any()


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DebertaV2"])
@pytest.mark.usefixtures("products")
def test_a_checkpoint_may_vanish_or_change_once_it_is_loaded(tmp_path: Path, name: str) -> None:
    engine = load_engine(make_checkpoint(tmp_path, name), FLOAT32)
    before = engine.classify(reviews([5, 9]))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))
    assert (engine.classify(reviews([5, 9])) == before).all()


@pytest.mark.parametrize("name", ["Bert", "Roberta"])
def test_engines_of_the_processor_answer_at_once(tmp_path: Path, name: str) -> None:
    engines = load_engines(make_checkpoint(tmp_path, name), FLOAT32)
    batches = [reviews([3 + seed % 5, LONGEST, 9, seed % 30 + 1], seed) for seed in range(20)]
    expected = [engines[0].classify(batch) for batch in batches]
    with ThreadPoolExecutor(len(engines)) as pool:
        for index, answers in enumerate(pool.map(lambda i: engines[i % len(engines)].classify(batches[i]), range(20))):
            assert np.abs(answers - expected[index]).max() < 1e-5


def test_the_form_of_a_gpu_graph_answers_the_same_after_another_batch(
    checkpoint: Checkpoint, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arithmetic of graphs without a GPU: fixed slots, attention by offsets, here in the plainest way."""
    monkeypatch.setattr(attention, "_varlen", plain_varlen)
    slots = Slots(256, 32)
    numbers = torch.empty(slots.size, dtype=torch.int32)
    for lengths in ([40, 40, 40, 40, 40, 40], [1], [8] * 32, [3, 17], [1] * 32):
        packed = pack(reviews(lengths))
        assert slots.hold(packed)
        slots.fill(numbers.numpy(), packed)
        probabilities = engine._forward._model(Batch.of_slots(slots, numbers, slots.rows)).numpy()[: len(lengths)]
        assert np.abs(probabilities - engine._forward(packed)).max() < 1e-5


LENGTHS = st.lists(st.sampled_from([1, LONGEST]) | st.integers(1, LONGEST), min_size=1, max_size=40)


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, data=st.data())
def test_every_answer_is_the_padded_model_s_and_company_changes_nothing(
    checkpoint: Checkpoint, engine: Engine, lengths: list[int], data: st.DataObject
) -> None:
    sequences = reviews(lengths)
    together = engine.classify(sequences)
    assert together.shape == (len(lengths), 2) and together.dtype == np.float32
    assert np.abs(together - reference(checkpoint.directory, sequences)).max() < 1e-5
    alone = data.draw(st.integers(0, len(lengths) - 1))
    assert np.abs(engine.classify([sequences[alone]])[0] - together[alone]).max() < 1e-5
    shuffled = data.draw(st.permutations(range(len(lengths))))
    again = engine.classify([sequences[i] for i in shuffled])
    assert np.abs(again - together[list(shuffled)]).max() < 1e-5


def test_a_sequence_the_model_cannot_read_is_refused_and_the_next_one_answered(engine: Engine) -> None:
    for sequence in ([], [1] * (LONGEST + 1), [300], [-1]):
        with pytest.raises(ValueError):
            engine.classify([[5, 6], sequence])
    assert engine.classify([]).shape == (0, 2)
    assert engine.self_test()


def test_self_test_tells_a_device_that_answers_differently(checkpoint: Checkpoint) -> None:
    engine = load_engine(checkpoint, FLOAT32)
    assert not engine.self_test(), "not warm: nothing to compare with"
    engine.warm_up()
    assert engine.self_test() and engine.tokens_per_second > 0
    engine._forward._model._classifier[1].add_(torch.tensor([0.0, 1.0]))
    assert not engine.self_test()


@pytest.mark.parametrize(
    "message",
    ["CUDA out of memory", "DefaultCPUAllocator: not enough memory", "could not create a primitive"],
)
def test_out_of_memory_says_so_and_lets_go_of_what_the_batch_held(checkpoint: Checkpoint, message: str) -> None:
    engine = load_engine(checkpoint, FLOAT32)
    held: list[weakref.ref[torch.Tensor]] = []

    def model(batch: Batch) -> torch.Tensor:
        activation = torch.empty(100)
        held.append(weakref.ref(activation))
        raise (torch.OutOfMemoryError if "CUDA" in message else RuntimeError)(message)

    engine._forward._model = model
    with pytest.raises(OutOfMemory) as caught:
        engine.classify([[1, 2]])
    assert held[0]() is None, "a retry would find the memory still taken"
    del caught


def test_what_onednn_cannot_compute_is_no_lack_of_memory(checkpoint: Checkpoint) -> None:
    engine = load_engine(checkpoint, FLOAT32)
    engine._forward._model = Mock(side_effect=RuntimeError("could not create a primitive descriptor for a matmul"))
    with pytest.raises(RuntimeError, match="descriptor"):
        engine.classify([[1, 2]])


def test_a_lost_device_is_no_records_fault(checkpoint: Checkpoint) -> None:
    engine = load_engine(checkpoint, FLOAT32)

    def model(batch: Batch) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine._forward._model = model
    with pytest.raises(DeviceFault):
        engine.classify([[1, 2]])


def test_shrink_stops_at_one_longest_review(checkpoint: Checkpoint) -> None:
    engine = load_engine(checkpoint, FLOAT32.model_copy(update={"token_budget": 100}))
    sequences = reviews([LONGEST] * 4)
    before = engine.classify(sequences)
    assert engine.shrink() and engine.token_budget == 50
    assert engine.shrink() and engine.token_budget == LONGEST
    assert not engine.shrink()
    assert np.abs(engine.classify(sequences) - before).max() < 1e-5
