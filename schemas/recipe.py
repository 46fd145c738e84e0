"""How an event becomes token ids: one recipe, stored with each checkpoint and applied by worker and training alike.

Knows nothing of models; the tokenizer is anything with the `encode_batch` of the `tokenizers` package.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator

# A token of real text is some five characters; sixteen leave room, and a text that needs more is cut again further out.
CHARACTERS_PER_TOKEN = 16
# The end of a word to every tokenizer; control characters that Python takes for space, BERT's drops inside a word.
_SPACE = re.compile(r"(?<=\S)[ \t\n\r]")


class TextRecipe(BaseModel):
    """Which text the model reads and how much of it."""

    model_config = ConfigDict(frozen=True)

    template: Annotated[str, Field(description="Text the model reads; {text} and other fields of the event.")] = (
        "{text}"
    )
    max_length: Annotated[int, Field(ge=3, description="Most tokens the model reads, special ones included.")] = 150
    truncation_side: Annotated[Literal["right", "left"], Field(description="Which end of a long text is dropped.")] = (
        "right"
    )
    long_text: Annotated[Literal["truncate"], Field(description="What becomes of a text longer than that.")] = (
        "truncate"
    )

    @field_validator("template")
    @classmethod
    def _plain_fields(cls, template: str) -> str:
        names = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
        if any(not name or not str(name).isidentifier() or spec or conversion for name, spec, conversion in names):
            raise ValueError("a template takes plain field names such as {title} and {text}")
        if "text" not in {name for name, _, _ in names}:
            raise ValueError("a template must contain {text}")
        return template

    @property
    def fields(self) -> frozenset[str]:
        """Names of the event's fields that the template reads."""
        return frozenset(name for _, name, _, _ in string.Formatter().parse(self.template) if name)


def render(recipe: TextRecipe, event: Mapping[str, Any]) -> str:
    """The text that the model reads. A field that is absent or no string counts as empty."""
    if recipe.template == "{text}":
        return str(event["text"])
    present = {name: value if isinstance(value := event.get(name), str) else "" for name in recipe.fields}
    return recipe.template.format_map(present).strip()


class Tokens(NamedTuple):
    """Token ids with the special ones, at most `max_length`; whether some were dropped."""

    ids: list[int]
    truncated: bool


class Encoding(Protocol):
    @property
    def ids(self) -> list[int]: ...
    @property
    def overflowing(self) -> Sequence[Any]: ...


EncodeBatch = Callable[[list[str]], Sequence[Encoding]]


def tokenize(encode_batch: EncodeBatch, recipe: TextRecipe, texts: Sequence[str]) -> list[Tokens]:
    """Token ids of each text, the same as those of the whole text whatever its length.

    `encode_batch` must truncate to the recipe's length and side (`configure`). Very long texts are first cut, at white
    space, to a piece that has more tokens than the model reads; tokenizers work word by word, so the tokens kept are
    those of the whole text. Where the piece turns out too short it is taken four times as long.
    """
    clipped = [clip(text, recipe.max_length * CHARACTERS_PER_TOKEN, recipe.truncation_side) for text in texts]
    result = [Tokens(encoding.ids, bool(encoding.overflowing)) for encoding in encode_batch(clipped)]
    for index, (text, piece) in enumerate(zip(texts, clipped, strict=True)):
        limit = len(piece)
        while len(piece) < len(text) and not result[index].truncated:
            limit *= 4
            piece = clip(text, limit, recipe.truncation_side)
            encoding = encode_batch([piece])[0]
            result[index] = Tokens(encoding.ids, bool(encoding.overflowing))
    return result


def clip(text: str, limit: int, side: str = "right") -> str:
    """At least `limit` characters of the text, cut at white space on the side named; all of it where there is none."""
    if len(text) <= limit:
        return text
    if side == "left":
        return clip(text[::-1], limit)[::-1]
    space = _SPACE.search(text, limit)
    return text[: space.start()] if space else text


class Truncating(Protocol):
    def enable_truncation(self, max_length: int, *, direction: str) -> None: ...
    def no_padding(self) -> None: ...


def configure(tokenizer: Truncating, recipe: TextRecipe) -> None:
    """Sets a `tokenizers.Tokenizer` to cut as the recipe says and never to pad."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(recipe.max_length, direction=recipe.truncation_side)
