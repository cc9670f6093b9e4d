"""Which tokenizers the word cache can serve: those that are known to see no further than a divider.

The contract: let a text be cut at its dividers. Then the tokens of the whole text are those of its pre-tokens, one
behind the other, at the same characters. A tokenizer qualifies by what it is made of, where it meets all rules of one
recipe; nothing is tried out on texts. Each rule says what would go wrong otherwise. Any other tokenizer is used
without the cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum
from itertools import chain
from typing import Any, NamedTuple

from wordmask.tokenization.words import is_chinese


class Divider(Enum):
    """What no tokenizer of a recipe sees beyond."""

    CHINESE = "a Chinese character, which is a token of its own, or a space, which belongs to none"
    SPACE = "a space between two characters, which always begins a pre-token and belongs to it alone"


class Parts(NamedTuple):
    """What a tokenizer consists of: the steps of each part, sequences taken apart, its model and its added tokens."""

    normalizer: list[dict[str, Any]]
    pre_tokenizer: list[dict[str, Any]]
    processor: list[dict[str, Any]]
    model: Any
    added: list[Any]
    normalize: Callable[[str], str]

    @classmethod
    def of(cls, tokenizer) -> Parts | None:
        """Those of a fast tokenizer; `None` where one is written in Python and cannot be told (RoFormer)."""
        backend = tokenizer.backend_tokenizer
        try:
            normalizer, pre_tokenizer = _steps(backend.normalizer), _steps(backend.pre_tokenizer)
        except Exception as error:  # the library raises no type of its own
            if "serialized" not in str(error):
                raise
            return None
        added = [*tokenizer.added_tokens_decoder.values()]
        normalize = backend.normalizer.normalize_str if backend.normalizer else str
        return cls(normalizer, pre_tokenizer, _steps(backend.post_processor), backend.model, added, normalize)

    @property
    def cuts_by(self) -> list[str]:
        """The names of the pre-tokenizer's steps."""
        return [step["type"] for step in self.pre_tokenizer]

    @property
    def trims(self) -> bool:
        """Whether white space is left out of a token's offsets."""
        return any(step["type"] not in ("BertProcessing", "TemplateProcessing") for step in self.processor)

    @property
    def contents(self) -> list[str]:
        """The added tokens, as they stand in texts and in normalized texts."""
        contents = [token.content for token in self.added]
        return contents + [self.normalize(token.content) for token in self.added if token.normalized]


def _steps(part: Any) -> list[dict[str, Any]]:
    """What a part of a tokenizer's backend consists of."""

    def flat(state: dict[str, Any]) -> list[dict[str, Any]]:
        if state["type"] != "Sequence":
            return [state]
        (steps,) = (value for name, value in state.items() if name != "type")
        return [*chain.from_iterable(map(flat, steps))]

    return flat(json.loads(part.__getstate__())) if part else []


class Rule(NamedTuple):
    """A condition on a tokenizer.

    Attributes:
        holds: whether a tokenizer meets it.
        otherwise: what would go wrong.
    """

    holds: Callable[[Parts], Any]
    otherwise: str


class Recipe(NamedTuple):
    """A kind of tokenizer that never sees beyond a divider.

    Attributes:
        example: a model that has such a tokenizer.
        divider: the divider.
        cuts_by: the names of the pre-tokenizer's steps.
        rules: the rest.
    """

    example: str
    divider: Divider
    cuts_by: list[str]
    rules: list[Rule]


def _keeps_spaces(step: dict[str, Any]) -> bool:
    """Whether a step of a normalizer keeps a space between two characters, and sees no further."""
    if step["type"] == "Replace":
        pattern, content = step["pattern"], step["content"]
        if "Regex" in pattern:
            return pattern["Regex"] in (" {2,}", r"\s{2,}|[\n\r\t]") and content in (" ", "▁")
        return all(re.fullmatch("[!-~]+", text) for text in (pattern["String"], content))
    return step["type"] in {"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "Precompiled"}


def _only(parts: Parts, *processors: str) -> bool:
    return {step["type"] for step in parts.processor} <= {*processors}


OF_BERT = [
    Rule(
        lambda parts: [step["type"] for step in parts.normalizer] == ["BertNormalizer"],
        "another normalizer may look at 研究 as a whole",
    ),
    Rule(lambda parts: parts.normalizer[0]["handle_chinese_chars"], "研究 stays together and may be one token"),
    Rule(
        lambda parts: parts.normalizer[0]["clean_text"],
        "a token of U+200B alone counts with the word behind it, beyond the divider",
    ),
    Rule(lambda parts: type(parts.model).__name__ == "WordPiece", "BPE may give no token for 研, or three of bytes"),
    Rule(
        lambda parts: parts.model.token_to_id(parts.model.unk_token) is not None,
        "an unknown 研 is dropped and gives no token",
    ),
    Rule(lambda parts: not parts.trims, "offsets move at white space"),
    Rule(
        lambda parts: not any(token.lstrip or token.rstrip or token.single_word for token in parts.added),
        "an added token takes the space beside it, or looks at the character beside it",
    ),
    Rule(
        lambda parts: all(token.content == token.content.strip() for token in parts.added),
        "the added token `x ` reaches over the end of a pre-token",
    ),
    Rule(
        lambda parts: (
            not any(character == "\n" or is_chinese(character) for token in parts.added for character in token.content)
        ),
        "the added token `x研` reaches over a Chinese character",
    ),
]
OF_SPACES = [
    Rule(
        lambda parts: all(map(_keeps_spaces, parts.normalizer)),
        "the normalizer may drop a space, make one, or prepend `▁` to the first word alone",
    ),
    Rule(
        lambda parts: type(parts.model).__name__ in ("BPE", "Unigram"),
        "of another model it is not known that `Ġa` is the same behind any word",
    ),
    Rule(
        lambda parts: not any(getattr(parts.model, chance, None) for chance in ("dropout", "alpha", "nbest_size")),
        "with dropout, the same word has other tokens each time",
    ),
    Rule(lambda parts: not any(token.rstrip for token in parts.added), "an added token takes the space behind it"),
    Rule(
        lambda parts: not any(not content or re.search(r"(?<!\s) (?!\s)", content) for content in parts.contents),
        "the added token `new wave` reaches over a space",
    ),
]
OF_BYTES = [
    Rule(lambda parts: parts.pre_tokenizer[-1]["use_regex"], "without GPT-2's pattern, words are not cut at spaces"),
    Rule(
        lambda parts: _only(parts, "ByteLevel", "RobertaProcessing", "BertProcessing", "TemplateProcessing"),
        "it is not known what becomes of the offsets",
    ),
    Rule(
        lambda parts: not (parts.trims and any("Ġ" in content for content in parts.contents)),
        "trimming takes the added token `Ġ` for a space",
    ),
]
OF_METASPACE = [
    Rule(lambda parts: parts.pre_tokenizer[-1]["split"], "words are not cut at spaces"),
    Rule(lambda parts: parts.pre_tokenizer[-1]["replacement"] == "▁", "a text may hold the replacement itself"),
    Rule(lambda parts: not parts.trims, "offsets are trimmed for `Ġ`, and spaces are `▁` here"),
]
NO_PREFIX = Rule(
    lambda parts: not parts.pre_tokenizer[-1]["add_prefix_space"], "each digit apart would get a space before it"
)
RECIPES = [
    Recipe("bert-base-chinese", Divider.CHINESE, ["BertPreTokenizer"], OF_BERT),
    Recipe("roberta-base", Divider.SPACE, ["ByteLevel"], OF_SPACES + OF_BYTES),
    Recipe("GPT-2's bytes, digits apart", Divider.SPACE, ["Digits", "ByteLevel"], [*OF_SPACES, *OF_BYTES, NO_PREFIX]),
    Recipe("albert-base-v2", Divider.SPACE, ["Metaspace"], OF_SPACES + OF_METASPACE),
    Recipe("xlm-roberta-base", Divider.SPACE, ["WhitespaceSplit", "Metaspace"], OF_SPACES + OF_METASPACE),
]


def divider_of(parts: Parts) -> Divider | str:
    """What a tokenizer never sees beyond, or why that is not known."""
    for recipe in RECIPES:
        if recipe.cuts_by == parts.cuts_by:
            broken = (rule.otherwise for rule in recipe.rules if not rule.holds(parts))
            return next(broken, recipe.divider)
    return f"no recipe cuts text by {', '.join(parts.cuts_by) or 'nothing'}"
