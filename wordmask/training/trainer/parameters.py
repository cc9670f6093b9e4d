"""What an `MlmTrainer` refuses of the parameters that a program gives it, as one sentence each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.trainer_utils import IntervalStrategy

from wordmask.config.flag_checks import refuse_encoder_decoder
from wordmask.config.launch_checks import check_one_gpu
from wordmask.config.metric_table import METRICS
from wordmask.config.run_arguments import RunArguments
from wordmask.data.collator import Masker
from wordmask.data.sequences import Sequences, StagedSequences, StreamedSequences
from wordmask.data.tokenized_dataset import TokenizedDataset
from wordmask.data.whole_word_collator import WholeWordMaskCollator
from wordmask.models.positions import position_limits
from wordmask.models.probing import embedded_ids
from wordmask.utils.errors import InputError, first_of, kind_of

# Parameters of the `Trainer` that would not be called, and why.
_UNUSED = {
    "compute_metrics": "MlmTrainer stores no predictions",
    "preprocess_logits_for_metrics": "MlmTrainer stores no predictions",
    "compute_loss_func": "MlmTrainer has the loss of masked language modelling",
    "model_init": "MlmTrainer prepares one model",
}
MASKED_LM = {*modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()}  # names of classes
# What a model does whose loss is not ours, by the name of its class. Some classes are made for several tasks.
_OTHER_TASKS = {
    model: does
    for task, does in (
        ("CAUSAL_LM", "predicts the next token"),
        ("SEQUENCE_CLASSIFICATION", "sorts texts into classes"),
        ("TOKEN_CLASSIFICATION", "sorts tokens into classes"),
        ("QUESTION_ANSWERING", "answers questions"),
        ("MULTIPLE_CHOICE", "chooses an answer"),
    )
    for model in getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES").values()
    if model not in MASKED_LM
}


def check_parameters(model: Any, args: Any, eval_dataset: Any, masks_by: Any, options: Mapping[str, Any]) -> None:
    """Raise an `InputError` for parameters of a `Trainer` that this one cannot use, or without a tokenizer."""
    if not isinstance(args, RunArguments):
        raise InputError(f"args: {type(args).__name__} lacks what MlmTrainer reads; give a wordmask.RunArguments")
    if "tokenizer" in options:
        raise InputError("tokenizer: this parameter of the Trainer is called processing_class now; rename it")
    if unused := first_of({name: options.get(name) for name in _UNUSED}):
        raise InputError(f"{unused}: {_UNUSED[unused]}, so it is not called; drop it")
    check_one_gpu(args.n_gpu, "your_program.py")
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"model: {kind_of(model)} is no model; give one, as from_pretrained loads it")
    name = type(model).__name__
    does = _OTHER_TASKS.get(name)
    if type(model).__module__.startswith("transformers."):  # else it may pass labels on
        if "labels" not in inspect.signature(model.forward).parameters:
            does = "has no loss"
        elif name not in MASKED_LM and not does:
            does = "has another loss than that of masked words"
    if does:
        raise InputError(f"model: {kind_of(model)} {does}; give a masked language model, see AutoModelForMaskedLM")
    config = getattr(model, "config", None)
    if not isinstance(config, PreTrainedConfig):
        raise InputError(f"model: {kind_of(model)} has no config of transformers; give a PreTrainedModel")
    refuse_encoder_decoder("model", name, config)
    if args.eval_strategy != IntervalStrategy.NO and eval_dataset is None:
        strategy = IntervalStrategy(args.eval_strategy).value
        raise InputError(f"eval_strategy: {strategy} needs an eval_dataset; give one, or drop it")
    if masks_by is None:
        raise InputError("processing_class is missing; give the tokenizer, or a data_collator that has one")


def check_collator(collator: Any, name: str) -> None:
    """Raise an `InputError` for a collator that does not mask words."""
    if not isinstance(collator, Masker):
        raise InputError(f"{name}: {kind_of(collator)} does not mask words; give a wordmask.WholeWordMaskCollator")


def check_same_tokenizer(tokenizer: Any, **collators: Any) -> None:
    """Raise an `InputError` if a collator masks the words of another tokenizer than the one that goes with the model.

    Args:
        tokenizer: that of the model; `None` if only a collator has one.
        collators: what makes batches, by the names of their parameters.
    """
    for name, collator in collators.items():
        own = collator.tokenizer if isinstance(collator, WholeWordMaskCollator) else tokenizer
        if own is tokenizer or tokenizer is None:
            continue
        if own.get_vocab() != tokenizer.get_vocab() or own.mask_token_id != tokenizer.mask_token_id:
            raise InputError(f"{name}: its tokenizer has other tokens than processing_class; give both the same")


def check_metric(args: RunArguments, sequences: Any, has_probe: bool) -> None:
    """Check the metric that chooses the best model, and give it the name that the Trainer understands.

    The Trainer takes `eval_wiki_loss` for the loss of `wiki`, and it may be that of `eval_wiki`.

    Args:
        args: has its name; `None` or empty for the loss.
        sequences: those to evaluate on.
        has_probe: whether there is a probe.

    Raises:
        InputError: if evaluations do not give it.
    """
    metric, names = args.metric_for_best_model, getattr(sequences, "evaluated_apart", ())
    corpora = zip(names, pairwise(sequences.bounds), strict=True) if names else ()
    losses = [f"{name}_loss" for name, (start, stop) in corpora if start < stop]
    known = [*(name for name in METRICS if has_probe or not name.startswith("probe_")), *losses]
    if not metric or metric.removeprefix("eval_") in known:
        return
    if metric not in losses:
        raise InputError(
            f"--metric_for_best_model: an evaluation here gives no {metric}; choose from {', '.join(known)}"
        )
    args.metric_for_best_model = f"eval_{metric}"


def check_program(args: RunArguments, model: Any, highest: int) -> None:
    """Raise an `InputError` for what a program of one's own can give, and a script cannot.

    Args:
        args: a dry run is one of the scripts.
        model: must have embeddings for all ids of the tokenizer.
        highest: the highest of these ids.
    """
    if args.dry_run:
        raise InputError("dry_run: an MlmTrainer has none, and would train; drop it")
    try:
        embedded = embedded_ids(model)
    except (AttributeError, NotImplementedError):  # a model of one's own, which may not say it
        return
    if highest >= embedded:
        raise InputError(
            f"tokenizer: its ids go up to {highest}, and the model has embeddings for {embedded}; give the tokenizer "
            f"of the model, or call model.resize_token_embeddings({highest + 1})"
        )


def look_for_words(collator: WholeWordMaskCollator, *datasets: Any) -> None:
    """Let a collator warn if nothing says the words of a program's data. The scripts check their own text."""
    ours = Sequences | StagedSequences | StreamedSequences | TokenizedDataset
    given = (dataset for dataset in datasets if dataset is not None and not isinstance(dataset, ours))
    collator.look_for_words(next(given, None))


def longest_text(model: Any) -> int | None:
    """The most tokens that a model has positions for; `None` without a limit, and for a model of one's own."""
    return min(position_limits(model), default=None) if isinstance(model, PreTrainedModel) else None


def as_stages(dataset: Any) -> StagedSequences | StreamedSequences | None:
    """Wrap any dataset for training, as the only stage of it."""
    if dataset is None or isinstance(dataset, StagedSequences | StreamedSequences):
        return dataset
    return StagedSequences([TokenizedDataset(dataset, "train_dataset")])


def as_sequences(dataset: Any) -> Sequences | TokenizedDataset | None:
    """Wrap any dataset for evaluation, whose sampler needs lengths.

    Raises:
        InputError: for a dict of datasets.
    """
    if isinstance(dataset, Mapping):
        raise InputError("eval_dataset: a dict of datasets is not possible; give one, and call evaluate for others")
    if dataset is None or isinstance(dataset, Sequences | TokenizedDataset):
        return dataset
    return TokenizedDataset(dataset, "eval_dataset")
