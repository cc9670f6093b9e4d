"""Which tokenizers may use the word cache: those that we know never look beyond a divider.

The contract: split a text at its dividers into pre-tokens. Then the tokens of the whole text are the tokens of its
pre-tokens, one after the other, at the same characters. We look at the components of a tokenizer, never at its
results on some texts: a tokenizer qualifies if it meets all rules of one recipe. Each rule says what would go wrong
without it. All other tokenizers work without the cache.
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
    """A character at which we may split a text: the tokens on one side do not depend on the other side."""

    CHINESE = "a Chinese character, which is a token of its own, or a space, which belongs to no token"
    SPACE = "a space between two characters, which always begins a pre-token and belongs only to it"


class Components(NamedTuple):
    """What a tokenizer consists of.

    Attributes:
        normalizer, pre_tokenizer, processor: the steps of each, as their JSON; nested sequences are made flat.
        model: the model, such as `WordPiece`.
        added: the added tokens.
        normalize: a function that applies the normalizer to a text.
    """

    normalizer: list[dict[str, Any]]
    pre_tokenizer: list[dict[str, Any]]
    processor: list[dict[str, Any]]
    model: Any
    added: list[Any]
    normalize: Callable[[str], str]

    @classmethod
    def of(cls, tokenizer) -> Components | None:
        """The components of a fast tokenizer; `None` if one is written in Python (RoFormer)."""
        backend = tokenizer.backend_tokenizer
        try:
            normalizer, pre_tokenizer = _steps(backend.normalizer), _steps(backend.pre_tokenizer)
        except Exception as error:  # the library has no exception type of its own
            if "serialized" not in str(error):
                raise
            return None
        added = [*tokenizer.added_tokens_decoder.values()]
        normalize = backend.normalizer.normalize_str if backend.normalizer else str
        return cls(normalizer, pre_tokenizer, _steps(backend.post_processor), backend.model, added, normalize)

    @property
    def splits_by(self) -> list[str]:
        """The names of the pre-tokenizer's steps."""
        return [step["type"] for step in self.pre_tokenizer]

    @property
    def trims(self) -> bool:
        """Whether the offsets of a token leave out white space."""
        return any(step["type"] not in ("BertProcessing", "TemplateProcessing") for step in self.processor)

    @property
    def contents(self) -> list[str]:
        """The added tokens, as they are written in texts and in normalized texts."""
        contents = [token.content for token in self.added]
        return contents + [self.normalize(token.content) for token in self.added if token.normalized]


def _steps(component: Any) -> list[dict[str, Any]]:
    """The steps of a component of a tokenizer's backend."""

    def flat(state: dict[str, Any]) -> list[dict[str, Any]]:
        if state["type"] != "Sequence":
            return [state]
        (steps,) = (value for name, value in state.items() if name != "type")
        return [*chain.from_iterable(map(flat, steps))]

    return flat(json.loads(component.__getstate__())) if component else []


class Rule(NamedTuple):
    """A condition that a tokenizer must meet.

    Attributes:
        holds: whether a tokenizer meets it.
        otherwise: what would go wrong if it did not.
    """

    holds: Callable[[Components], Any]
    otherwise: str


class Recipe(NamedTuple):
    """A kind of tokenizer that never looks beyond a divider.

    Attributes:
        example: a model that has such a tokenizer.
        divider: the divider.
        splits_by: the names of the pre-tokenizer's steps.
        rules: the other conditions.
    """

    example: str
    divider: Divider
    splits_by: list[str]
    rules: list[Rule]


def _keeps_spaces(step: dict[str, Any]) -> bool:
    """Whether a normalizer's step keeps a space between two characters, and never looks beyond it."""
    if step["type"] == "Replace":
        pattern, content = step["pattern"], step["content"]
        if "Regex" in pattern:
            return pattern["Regex"] in (" {2,}", r"\s{2,}|[\n\r\t]") and content in (" ", "▁")
        return all(re.fullmatch("[!-~]+", text) for text in (pattern["String"], content))
    return step["type"] in {"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "Precompiled"}


def _only(tokenizer: Components, *processors: str) -> bool:
    return {step["type"] for step in tokenizer.processor} <= {*processors}


OF_BERT = [
    Rule(
        lambda tokenizer: [step["type"] for step in tokenizer.normalizer] == ["BertNormalizer"],
        "another normalizer may change 研究 as a whole",
    ),
    Rule(lambda tokenizer: tokenizer.normalizer[0]["handle_chinese_chars"], "研究 is not split and may be one token"),
    Rule(
        lambda tokenizer: tokenizer.normalizer[0]["clean_text"],
        "a token of only U+200B belongs to the word after it, beyond the divider",
    ),
    Rule(
        lambda tokenizer: type(tokenizer.model).__name__ == "WordPiece",
        "BPE may give no token for 研, or three tokens of bytes",
    ),
    Rule(
        lambda tokenizer: tokenizer.model.token_to_id(tokenizer.model.unk_token) is not None,
        "an unknown 研 gives no token",
    ),
    Rule(lambda tokenizer: not tokenizer.trims, "the offsets change at white space"),
    Rule(
        lambda tokenizer: not any(token.lstrip or token.rstrip or token.single_word for token in tokenizer.added),
        "an added token takes in the space beside it, or depends on the character beside it",
    ),
    Rule(
        lambda tokenizer: all(token.content == token.content.strip() for token in tokenizer.added),
        "the added token `x ` does not end where a pre-token ends",
    ),
    Rule(
        lambda tokenizer: (
            not any(
                character == "\n" or is_chinese(character) for token in tokenizer.added for character in token.content
            )
        ),
        "the added token `x研` contains a divider",
    ),
]
OF_SPACES = [
    Rule(
        lambda tokenizer: all(map(_keeps_spaces, tokenizer.normalizer)),
        "the normalizer may remove or add a space, or put `▁` before the first word only",
    ),
    Rule(
        lambda tokenizer: type(tokenizer.model).__name__ in ("BPE", "Unigram"),
        "another model may encode `Ġa` differently after another word",
    ),
    Rule(
        lambda tokenizer: (
            not any(getattr(tokenizer.model, chance, None) for chance in ("dropout", "alpha", "nbest_size"))
        ),
        "with dropout, the same word gets other tokens each time",
    ),
    Rule(
        lambda tokenizer: not any(token.rstrip for token in tokenizer.added),
        "an added token takes in the space after it",
    ),
    Rule(
        lambda tokenizer: (
            not any(not content or re.search(r"(?<!\s) (?!\s)", content) for content in tokenizer.contents)
        ),
        "the added token `new wave` contains a divider",
    ),
]
OF_BYTES = [
    Rule(
        lambda tokenizer: tokenizer.pre_tokenizer[-1]["use_regex"],
        "without GPT-2's pattern, text is not split at spaces",
    ),
    Rule(
        lambda tokenizer: _only(tokenizer, "ByteLevel", "RobertaProcessing", "BertProcessing", "TemplateProcessing"),
        "another step may change the offsets",
    ),
    Rule(
        lambda tokenizer: not (tokenizer.trims and any("Ġ" in content for content in tokenizer.contents)),
        "trimming treats the added token `Ġ` as a space",
    ),
]
OF_METASPACE = [
    Rule(lambda tokenizer: tokenizer.pre_tokenizer[-1]["split"], "text is not split at spaces"),
    Rule(
        lambda tokenizer: tokenizer.pre_tokenizer[-1]["replacement"] == "▁",
        "a text may contain the replacement itself",
    ),
    Rule(lambda tokenizer: not tokenizer.trims, "trimming looks for `Ġ`, but spaces are `▁` here"),
]
NO_PREFIX = Rule(
    lambda tokenizer: not tokenizer.pre_tokenizer[-1]["add_prefix_space"],
    "each single digit would get a space before it",
)
RECIPES = [
    Recipe("bert-base-chinese", Divider.CHINESE, ["BertPreTokenizer"], OF_BERT),
    Recipe("roberta-base", Divider.SPACE, ["ByteLevel"], OF_SPACES + OF_BYTES),
    Recipe(
        "GPT-2's byte-level BPE with single digits",
        Divider.SPACE,
        ["Digits", "ByteLevel"],
        [*OF_SPACES, *OF_BYTES, NO_PREFIX],
    ),
    Recipe("albert-base-v2", Divider.SPACE, ["Metaspace"], OF_SPACES + OF_METASPACE),
    Recipe("xlm-roberta-base", Divider.SPACE, ["WhitespaceSplit", "Metaspace"], OF_SPACES + OF_METASPACE),
]


def divider_of(tokenizer: Components) -> Divider | str:
    """The divider that a tokenizer never looks beyond, or a text that says why we know none."""
    for recipe in RECIPES:
        if recipe.splits_by == tokenizer.splits_by:
            broken_rules = (rule.otherwise for rule in recipe.rules if not rule.holds(tokenizer))
            return next(broken_rules, recipe.divider)
    return f"no recipe splits text by {', '.join(tokenizer.splits_by) or 'nothing'}"
