"""Which tokenizers may use the word cache: those that we know never look beyond a divider.

The contract: split a text at its dividers into pre-tokens. Then the tokens of the whole text are the tokens of its
pre-tokens, one after the other, at the same characters. We look at the components of a tokenizer, never at its
results on some texts. A tokenizer qualifies if it keeps all rules of one recipe. Each rule stands beside what would go
wrong without it. All other tokenizers work without the cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from wordmask.tokenization.backend import Tokenizer, serialized
from wordmask.tokenization.words import is_chinese


class Divider(Enum):
    """A character at which we may split a text: the tokens on one side do not depend on the other side."""

    CHINESE = "a Chinese character, which is a token of its own, or a space, which belongs to no token"
    SPACE = "a space between two characters, which always begins a pre-token and belongs only to it"


class Components:
    """What a fast tokenizer consists of.

    Attributes:
        normalizer, pre_tokenizer, processor: the steps of each, as their JSON; nested sequences are made flat.
        model, model_name: the model, and its name, such as `WordPiece`.
        added: the added tokens.
        normalize: a function that applies the normalizer to a text.
    """

    def __init__(self, tokenizer: Tokenizer):
        backend = tokenizer.backend_tokenizer
        self.normalizer, self.pre_tokenizer = steps_of(backend.normalizer), steps_of(backend.pre_tokenizer)
        self.processor, self.model = steps_of(backend.post_processor), backend.model
        self.model_name = type(backend.model).__name__
        self.added = [*tokenizer.added_tokens_decoder.values()]
        self.normalize: Callable[[str], str] = backend.normalizer.normalize_str if backend.normalizer else str

    @property
    def trims(self) -> bool:
        """Whether the offsets of a token leave out white space."""
        return not {*_types(self.processor)} <= {"BertProcessing", "TemplateProcessing"}

    @property
    def contents(self) -> list[str]:
        """The added tokens, as they are written in texts and in normalized texts."""
        contents = [token.content for token in self.added]
        return contents + [self.normalize(token.content) for token in self.added if token.normalized]


def steps_of(component: Any) -> list[dict[str, Any]]:
    """The steps of a component of a backend, as their JSON. One that is written in Python is one step (RoFormer)."""

    def flat(state: dict[str, Any]) -> list[dict[str, Any]]:
        if state["type"] != "Sequence":
            return [state]
        (steps,) = (value for name, value in state.items() if name != "type")
        return [*chain.from_iterable(map(flat, steps))]

    return flat(serialized(component) or {"type": "Python"}) if component else []


def _types(steps: list[dict[str, Any]]) -> list[str]:
    return [step["type"] for step in steps]


def _keeps_spaces(step: dict[str, Any]) -> bool:
    """Whether a normalizer's step keeps a space between two characters, and never looks beyond it."""
    if step["type"] == "Replace":
        pattern, content = step["pattern"], step["content"]
        if "Regex" in pattern:
            return pattern["Regex"] in (" {2,}", r"\s{2,}|[\n\r\t]") and content in (" ", "▁")
        return all(re.fullmatch("[!-~]+", text) for text in (pattern["String"], content))
    return step["type"] in {"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Strip", "Precompiled"}


# What would go wrong without a rule, and whether a tokenizer keeps the rule. The rules are checked in this order.
Rules: TypeAlias = dict[str, Callable[[Components], Any]]

OF_BERT: Rules = {
    "another normalizer may change 研究 as a whole": lambda parts: _types(parts.normalizer) == ["BertNormalizer"],
    "研究 is not split and may be one token": lambda parts: parts.normalizer[0]["handle_chinese_chars"],
    "a token of only U+200B belongs to the word beyond the divider": lambda parts: parts.normalizer[0]["clean_text"],
    "BPE may give no token for 研, or three tokens of bytes": lambda parts: parts.model_name == "WordPiece",
    "an unknown 研 gives no token": lambda parts: parts.model.token_to_id(parts.model.unk_token) is not None,
    "the offsets change at white space": lambda parts: not parts.trims,
    "an added token takes in the space beside it, or depends on the character beside it": lambda parts: (
        # The normalizer puts spaces around Chinese characters, so those beside a normalized token are spaces.
        not any(token.lstrip or token.rstrip or token.single_word and not token.normalized for token in parts.added)
    ),
    "the added token `x研` contains a divider": lambda parts: (
        not any(character.isspace() or is_chinese(character) for token in parts.added for character in token.content)
    ),
}
OF_SPACES: Rules = {
    "the normalizer may remove a space, or add a space or `▁`": lambda parts: all(
        map(_keeps_spaces, parts.normalizer)
    ),
    "another model may encode `Ġa` by the word before it": lambda parts: parts.model_name in ("BPE", "Unigram"),
    "with dropout, the same word gets other tokens each time": lambda parts: (
        not any(getattr(parts.model, chance, None) for chance in ("dropout", "alpha", "nbest_size"))
    ),
    "an added token takes in the space after it": lambda parts: not any(token.rstrip for token in parts.added),
    "the added token `new wave` contains a divider": lambda parts: (
        not any(not content or re.search(r"(?<!\s) (?!\s)", content) for content in parts.contents)
    ),
}
OF_BYTES: Rules = OF_SPACES | {
    "without GPT-2's pattern, text is not split at spaces": lambda parts: parts.pre_tokenizer[-1]["use_regex"],
    "another step may change the offsets": lambda parts: (
        {*_types(parts.processor)} <= {"ByteLevel", "RobertaProcessing", "BertProcessing", "TemplateProcessing"}
    ),
    "trimming treats an added `Ġ` as a space": lambda parts: not (parts.trims and "Ġ" in "".join(parts.contents)),
}
OF_SINGLE_DIGITS: Rules = OF_BYTES | {
    "each single digit would get a space before it": lambda parts: not parts.pre_tokenizer[-1]["add_prefix_space"],
}
OF_METASPACE: Rules = OF_SPACES | {
    "text is not split at spaces": lambda parts: parts.pre_tokenizer[-1]["split"],
    "a text may contain the replacement itself": lambda parts: parts.pre_tokenizer[-1]["replacement"] == "▁",
    "trimming looks for `Ġ`, but spaces are `▁` here": lambda parts: not parts.trims,
}


class Recipe(NamedTuple):
    """A kind of tokenizer that never looks beyond a divider.

    Attributes:
        divider: the divider.
        splits_by: the names of the pre-tokenizer's steps.
        rules: the other conditions.
    """

    divider: Divider
    splits_by: list[str]
    rules: Rules


RECIPES = [
    Recipe(Divider.CHINESE, ["BertPreTokenizer"], OF_BERT),  # bert-base-chinese
    Recipe(Divider.SPACE, ["ByteLevel"], OF_BYTES),  # roberta-base
    Recipe(Divider.SPACE, ["Digits", "ByteLevel"], OF_SINGLE_DIGITS),  # a byte-level BPE with single digits
    Recipe(Divider.SPACE, ["Metaspace"], OF_METASPACE),  # albert-base-v2
    Recipe(Divider.SPACE, ["WhitespaceSplit", "Metaspace"], OF_METASPACE),  # xlm-roberta-base
]


def divider_of(tokenizer: Components) -> Divider | str:
    """The divider that a tokenizer never looks beyond, or a text that says why we know none."""
    splits_by = _types(tokenizer.pre_tokenizer)
    for recipe in RECIPES:
        if recipe.splits_by == splits_by:
            return next((why for why, keeps in recipe.rules.items() if not keeps(tokenizer)), recipe.divider)
    return f"no recipe splits text by {', '.join(splits_by) or 'nothing'}"
