"""Masked language modelling with whole words, on the Hugging Face Trainer.

    import wordmask

    collator = wordmask.WholeWordMaskCollator(tokenizer, mlm_probability=0.15)

Each name is imported when it is first used, so that `import wordmask` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wordmask.config.run_arguments import RunArguments as RunArguments
    from wordmask.data.whole_word_collator import WholeWordMaskCollator as WholeWordMaskCollator
    from wordmask.models.sparse_prediction import sparse_prediction as sparse_prediction
    from wordmask.references.positions import make_references as make_references
    from wordmask.segmenters import Segmenter as Segmenter
    from wordmask.segmenters import load_segmenter as load_segmenter
    from wordmask.training.trainer.mlm_trainer import MlmTrainer as MlmTrainer
    from wordmask.utils.errors import InputError as InputError

__version__ = "0.1.0"

_MODULES = {
    "InputError": "wordmask.utils.errors",
    "MlmTrainer": "wordmask.training.trainer.mlm_trainer",
    "RunArguments": "wordmask.config.run_arguments",
    "Segmenter": "wordmask.segmenters",
    "WholeWordMaskCollator": "wordmask.data.whole_word_collator",
    "load_segmenter": "wordmask.segmenters",
    "make_references": "wordmask.references.positions",
    "sparse_prediction": "wordmask.models.sparse_prediction",
}
__all__ = [*_MODULES]


if not TYPE_CHECKING:  # which knows the names from above, and a wrong one from right ones

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
