"""The identity of a model: a digest of the weights that it starts from, and its architecture."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import PreTrainedModel

from wordmask.config.model_arguments import ModelArguments
from wordmask.utils.cache import cache_directory, content_digest

SCRATCH = "from scratch"
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # in the order of the search
# Settings of a configuration that do not change the model.
_IRRELEVANT = {"transformers_version", "dtype", "torch_dtype", "architectures", "use_cache", "id2label", "label2id"}


def base_model(arguments: ModelArguments) -> str:
    """The digest of the weights that a run starts from, or `from scratch`.

    We compute it from the content of the files, so a copy of a model of the hub is the same model. We cache it by the
    names, sizes and times of the files.
    """
    name, revision = arguments.model_name_or_path, arguments.model_revision
    if not name:
        return SCRATCH
    directory = name
    if not os.path.isdir(name):  # a model of the hub has been loaded already, so it is in the hub's cache
        config = try_to_load_from_cache(name, "config.json", arguments.cache_dir, revision)
        directory = os.path.dirname(config) if isinstance(config, str) else name
    for pattern in _WEIGHTS:
        files = sorted(glob.glob(os.path.join(glob.escape(directory), pattern)))
        if files:
            cache = cache_directory(arguments.cache_dir)
            digests = [content_digest(file, cache) for file in files]
            return hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return f"{name}, {revision}"


def architecture(model: PreTrainedModel) -> dict[str, Any]:
    """The settings of a model's configuration that change the model."""
    config = model.config.to_dict()
    kept = {name: value for name, value in config.items() if name not in _IRRELEVANT and not name.startswith("_")}
    return json.loads(json.dumps({"class": type(model).__name__} | kept, sort_keys=True, default=str))
