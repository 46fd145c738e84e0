"""Nothing in one part may be like anything in another, and each part has the classes in proportion."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.dataset import Example
from training.errors import InputError
from training.splits import oversample, parse_split, require_every_label, same_text, split

EXAMPLES = st.lists(
    st.builds(
        Example,
        text=st.sampled_from(["good", "Good ", "bad", "so so"]) | st.integers(0, 200).map(str),
        label=st.integers(0, 2),
        group=st.none() | st.integers(0, 30).map(str),
    ),
    min_size=1,
    max_size=200,
)


@given(examples=EXAMPLES, seed=st.integers(0, 5))
@settings(deadline=None)
def test_texts_and_groups_never_straddle_parts(examples: list[Example], seed: int) -> None:
    parts = split(examples, (90, 5, 5), seed)
    assert sorted(str(example) for part in parts for example in part) == sorted(map(str, examples)), (
        "every example is in one part"
    )
    seen: dict[tuple[str, str], set[int]] = defaultdict(set)
    for number, part in enumerate(parts):
        for example in part:
            seen["text", same_text(example.text)].add(number)
            if example.group is not None:
                seen["group", example.group].add(number)
    assert all(len(numbers) == 1 for numbers in seen.values())
    assert parts == split(examples, (90, 5, 5), seed)


def test_parts_have_the_classes_in_proportion() -> None:
    examples = [Example(str(number), int(number % 10 == 0)) for number in range(10_000)]
    counts = [Counter(example.label for example in part) for part in split(examples, (90, 5, 5), 42)]
    assert counts == [{0: 8100, 1: 900}, {0: 450, 1: 50}, {0: 450, 1: 50}]
    assert split(examples, (90, 5, 5), 1) != split(examples, (90, 5, 5), 2)


def test_groups_of_all_sizes_are_spread_in_proportion() -> None:
    sizes = [400, 300, 200, *[50] * 20, *[5] * 400]
    examples = [
        Example(f"{group}-{number}", int(number % 4 == 0), str(group))
        for group, size in enumerate(sizes)
        for number in range(size)
    ]
    positive = sum(example.label for example in examples) / len(examples)
    for part, share in zip(split(examples, (80, 10, 10), 42), (0.8, 0.1, 0.1), strict=True):
        assert len(part) == pytest.approx(share * len(examples), rel=0.05)
        assert sum(example.label for example in part) / len(part) == pytest.approx(positive, abs=0.02)


def test_parts_without_a_label_are_refused() -> None:
    with pytest.raises(InputError, match=r"the test part \(1 rows\) has none labelled negative"):
        require_every_label({"test": [Example("t", 1)]}, ["negative", "positive"])


def test_oversampling_repeats_the_smaller_classes_evenly() -> None:
    examples = [Example(str(number), 0) for number in range(25)] + [Example(f"m{number}", 1) for number in range(10)]
    result = oversample(examples, 42)
    assert Counter(example.label for example in result) == {0: 25, 1: 25}
    assert set(Counter(example for example in result if example.label == 1).values()) == {2, 3}
    assert set(result) == set(examples) and result == oversample(examples, 42)


def test_shares() -> None:
    assert parse_split("90/5/5") == (90, 5, 5)
    for text in ("90/10", "90/5/6", "100/0/0", "a/b/c", "110/-5/-5"):
        with pytest.raises(InputError, match="--split"):
            parse_split(text)
