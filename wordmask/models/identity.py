"""The identity of a model: a digest of the weights that it starts from, and its architecture."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from wordmask.config.arguments import ModelArguments
from wordmask.utils.cache import cache_directory, content_digest

SCRATCH = "from scratch"
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # in the order of the search
# Settings of a configuration that do not change the model.
_IRRELEVANT = {"transformers_version", "dtype", "torch_dtype", "architectures", "use_cache", "id2label", "label2id"}


def base_model(arguments: ModelArguments) -> str:
    """The digest of the weights that a run starts from, or `from scratch`.

    It is computed from the content of the files, so a copy of a model of the hub is the same model. It is cached by
    the names, sizes and times of the files.
    """
    name = arguments.model_name_or_path
    if not name:
        return SCRATCH
    directory = name if os.path.isdir(name) else _snapshot(arguments)
    for pattern in _WEIGHTS if directory else ():
        files = sorted(glob.glob(os.path.join(glob.escape(str(directory)), pattern)))
        if files:
            cache = cache_directory(arguments.cache_dir)
            digests = [content_digest(file, cache) for file in files]
            return hashlib.sha256(" ".join(digests).encode()).hexdigest()
    return f"{name}, {arguments.model_revision}"


def _snapshot(arguments: ModelArguments) -> str | None:
    """The directory in the cache of a model of the hub that is already loaded."""
    options = {"cache_dir": arguments.cache_dir, "revision": arguments.model_revision, "local_files_only": True}
    try:
        return str(Path(str(cached_file(str(arguments.model_name_or_path), "config.json", **options))).parent)
    except OSError:
        return None


def architecture(model: Any) -> dict[str, Any]:
    """The settings of a model's configuration that change the model."""
    config = model.config.to_dict()
    kept = {name: value for name, value in config.items() if name not in _IRRELEVANT and not name.startswith("_")}
    return json.loads(json.dumps({"class": type(model).__name__} | kept, sort_keys=True, default=str))
