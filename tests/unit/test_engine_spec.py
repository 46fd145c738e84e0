"""Only what the packed BERT computes exactly is taken for a BERT; only a classifier of one label is served."""

from typing import Any

import pytest

from worker.engine.spec import BertSpec, bert_spec, head_problem, products

STOCK = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}


def test_the_defaults_are_bert_base_and_sizes_are_read() -> None:
    assert bert_spec(STOCK) == BertSpec()
    small = bert_spec({**STOCK, "hidden_size": 384, "layer_norm_eps": 1e-5, "hidden_act": "gelu_new"})
    assert small == BertSpec(hidden=384, epsilon=1e-5, activation="gelu_tanh")


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "roberta"},
        {"hidden_act": "silu"},
        {"position_embedding_type": "relative_key"},
        {"architectures": ["BertForMaskedLM"]},
        {"architectures": ["MyBertForSequenceClassification"]},
        {"architectures": None},
        {"is_decoder": True},
        {"add_cross_attention": True},
        {"pruned_heads": {"0": [1]}},
    ],
)
def test_whatever_is_not_stock_is_not_known(change: dict[str, Any]) -> None:
    assert bert_spec({**STOCK, **change}) is None


@pytest.mark.parametrize(
    ("config", "served"),
    [
        ({}, True),
        ({"id2label": {"0": "a", "1": "b"}, "problem_type": "single_label_classification"}, True),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, False),
        ({"num_labels": 1}, False),
        ({"problem_type": "multi_label_classification"}, False),
        ({"problem_type": "regression"}, False),
    ],
)
def test_heads_of_one_label_a_review_are_served(config: dict[str, Any], served: bool) -> None:
    assert (head_problem(config, 2) is None) == served


def test_products_are_those_of_all_tokens() -> None:
    counts = products(BertSpec(layers=3, hidden=8, inner=32))
    assert counts == {(24, 8): 2, (8, 8): 2, (32, 8): 2, (8, 32): 2, (16, 8): 1}
