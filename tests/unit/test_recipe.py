"""The one text recipe: what training and worker make of an event, token for token."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import BertWordPieceTokenizer, Tokenizer

from schemas.recipe import CHARACTERS_PER_TOKEN, Encoding, TextRecipe, Tokens, clip, configure, render, tokenize

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "great", "bad", "film", "##s", "a", "b", "##a", "##b", "ab", ".", "!"]


def wordpiece(recipe: TextRecipe) -> Tokenizer:
    tokenizer = BertWordPieceTokenizer({word: index for index, word in enumerate(VOCABULARY)})._tokenizer
    tokenizer.enable_padding(length=128)  # as all-MiniLM-L6-v2's tokenizer.json does
    configure(tokenizer, recipe)
    return tokenizer


def test_golden_tokens() -> None:
    recipe = TextRecipe(template="{title} {text}", max_length=6)
    texts = [
        render(recipe, event) for event in ({"title": "Great", "text": "films."}, {"text": "bad"}, {"text": "a. " * 9})
    ]
    assert texts == ["Great films.", "bad", "a. a. a. a. a. a. a. a. a."]
    assert tokenize(wordpiece(recipe).encode_batch, recipe, texts) == [
        Tokens([2, 4, 6, 7, 13, 3], False),
        Tokens([2, 5, 3], False),
        Tokens([2, 8, 13, 8, 13, 3], True),
    ]


def test_text_alone_is_read_as_it_is() -> None:
    assert render(TextRecipe(), {"text": "  as is ", "title": "T"}) == "  as is "


@pytest.mark.parametrize("title", [None, 7, ["x"]])
def test_a_title_that_is_no_string_counts_as_empty(title: object) -> None:
    assert render(TextRecipe(template="{title}: {text}"), {"title": title, "text": "t"}) == ": t"


@pytest.mark.parametrize(
    "template", ["{title}", "plain", "{text!r}", "{text:>9}", "{text.upper}", "{text[0]}", "{0} {text}"]
)
def test_templates_take_plain_fields_and_need_the_text(template: str) -> None:
    with pytest.raises(ValidationError):
        TextRecipe(template=template)


@pytest.mark.parametrize("side", ["right", "left"])
@given(
    words=st.lists(st.sampled_from(["great", "films", "ababab", "bad!", "x" * 120, "\x1c", "é"]), max_size=60),
    gap=st.text(" \t\n\x0b\x1c\x85\xa0", min_size=1),
)
@example(words=["é" * 60, "films\x1cé"], gap=" ")
@settings(deadline=None)
def test_clipping_never_changes_the_tokens_kept(side: str, words: list[str], gap: str) -> None:
    recipe = TextRecipe(max_length=4, truncation_side=side)
    text = gap.join(words)
    whole = wordpiece(recipe).encode(text)
    assert tokenize(wordpiece(recipe).encode_batch, recipe, [text]) == [Tokens(whole.ids, bool(whole.overflowing))]


@given(text=st.text("ab \n\x1c", max_size=200), limit=st.integers(1, 100), side=st.sampled_from(["right", "left"]))
def test_clip_keeps_one_end_and_cuts_between_words(text: str, limit: int, side: str) -> None:
    piece = clip(text, limit, side)
    assert len(piece) >= min(limit, len(text))
    assert text.endswith(piece) if side == "left" else text.startswith(piece)
    if piece != text:
        edge = text[-len(piece) - 1] if side == "left" else text[len(piece)]
        assert edge in " \t\n\r"


def test_a_huge_text_costs_no_more_than_its_start() -> None:
    recipe = TextRecipe(max_length=4)
    tokenizer, read = wordpiece(recipe), []

    def encode_batch(texts: list[str]) -> list[Encoding]:
        read.extend(map(len, texts))
        return list(tokenizer.encode_batch(texts))

    assert tokenize(encode_batch, recipe, ["ab " * 1_000_000]) == [Tokens([2, 12, 12, 3], True)]
    assert read == [CHARACTERS_PER_TOKEN * 4 + 1]
