"""The header of a run: what it trains, on what, how, for how long, and where the output goes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, cast

import torch
from transformers.utils import is_torch_tf32_available

from wordmask.config.arguments import Arguments
from wordmask.data.corpora import quotas
from wordmask.data.prepared_dir import RunTexts
from wordmask.data.sequences import Sequences, StagedSequences, StreamedSequences
from wordmask.masking import Strategy
from wordmask.training.records.run_record import DEVICE
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.quantities import counted, number, percent, short
from wordmask.utils.terminal import Fact, Terminal

LENGTH, ORDER = "sequence length", "order"  # in the record of a run, but not in the header
_ORDERS = {"random": "random", "group_by_length": "similar lengths in a step", "sequential": "as in the text"}
_UNITS = {
    Strategy.TOKEN: "tokens",
    Strategy.WHOLE_WORD: "whole words",
    Strategy.NGRAM: "n-grams of words",
    Strategy.SPAN: "spans of words",
}


def show_header(described: Mapping[str, str], trainer: MlmTrainer, terminal: Terminal) -> None:
    """Show what this run will do, a line for each concern, see `describe_run`."""
    training = trainer.args
    for label, text in described.items():
        if label not in (LENGTH, ORDER):
            terminal.show(Fact(label, text))
    if training.do_train:
        terminal.show(Fact("steps", _steps(trainer)))
    terminal.show(Fact("output", str(training.output_dir)))


def describe_run(arguments: Arguments, trainer: MlmTrainer, texts: RunTexts) -> dict[str, str]:
    """What a run trains, on what and how: a sentence for each concern. A resume says the same."""
    probe = {"probe": str(trainer.probe.examples)} if trainer.probe else {}
    return {
        "model": _model(arguments, trainer),
        "text": _text(trainer),
        **({"mixture": mixture} if (mixture := _mixture(trainer)) else {}),
        LENGTH: _length(trainer),
        **({ORDER: _ORDERS[str(trainer.args.train_sampling_strategy)]} if trainer.plan else {}),
        "masking": describe_masking(arguments, texts),
        **probe,
        DEVICE: _device(trainer),
    }


def _model(arguments: Arguments, trainer: MlmTrainer) -> str:
    model: Any = trainer.model
    name = arguments.model.model_name_or_path
    origin = f"from {name}" if name else "from scratch"
    return f"{model.config.model_type}, {short(model.num_parameters())} parameters, {origin}"


def _text(trainer: MlmTrainer) -> str:
    parts = []
    if trainer.args.do_train and trainer.train_sequences is not None:
        parts.append(f"train: {_sequences(trainer.train_sequences)}")
    if trainer.args.do_eval and trainer.eval_sequences is not None:
        parts.append(f"validation: {_sequences(trainer.eval_sequences)}")
    return "; ".join(parts)


def _mixture(trainer: MlmTrainer) -> str:
    """The corpora that are mixed, and how often each one comes; empty without --train_weights."""
    sequences: Any = trainer.train_sequences
    if not trainer.args.do_train or not getattr(sequences, "weights", ()):
        return ""
    stage, parts, tokens = sequences.stages[-1], [], _tokens_in_epoch(sequences)
    columns = stage.corpora, quotas(sequences.weights, len(stage)), tokens, pairwise(stage.bounds)
    for corpus, quota, own_tokens, (start, stop) in zip(*columns, strict=True):
        shares = f"{percent(quota / len(stage))} of the sequences, {percent(own_tokens / sum(tokens))} of the tokens"
        parts.append(f"{corpus.name}: {shares}, {quota / (stop - start):.3g} times in an epoch")
    return "; ".join(parts)


def _tokens_in_epoch(sequences: StagedSequences) -> list[float]:
    """The tokens of each corpus in an epoch of the last stage; those of all sequences if none are mixed."""
    stage: Any = sequences.stages[-1]
    if not sequences.weights:
        return [float(stage.lengths.sum())]
    means = [stage.lengths[start:stop].mean() for start, stop in pairwise(stage.bounds)]
    return [quota * float(mean) for quota, mean in zip(quotas(sequences.weights, len(stage)), means, strict=True)]


def _length(trainer: MlmTrainer) -> str:
    """The longest sequences, of each stage if there are several."""
    sequences: Any = trainer.train_sequences if trainer.args.do_train else trainer.eval_sequences
    stages = sequences.stages if isinstance(sequences, StagedSequences) else [sequences]
    return f"up to {', then '.join(f'{stage.length:,}' for stage in stages)} tokens"


def _sequences(sequences: Any) -> str:
    """How much text there is. Packed sequences hold documents."""
    if isinstance(sequences, StreamedSequences):
        return f"a stream, in sequences of up to {counted(sequences.length, 'token')}"
    if isinstance(sequences, StagedSequences):
        sequences = sequences.stages[-1]
    tokens, count = counted(int(sequences.lengths.sum()), "token"), counted(len(sequences), "sequence")
    packed = isinstance(sequences, Sequences) and sequences.division.packs is not None
    documents = f"{counted(sequences.document_count, 'document')} packed into " if packed else ""
    return f"{tokens} in {documents}{count}"


def describe_masking(arguments: Arguments, texts: RunTexts) -> str:
    """What is masked, where words come from, how much is masked, and what replaces it."""
    masking = arguments.masking
    masked, random = masking.mask_replace_prob, masking.random_replace_prob
    kinds = {"become [MASK]": masked, "a random token": random, "stay": 1 - masked - random}
    replaced = ", ".join(f"{share:.0%} {kind}" for kind, share in kinds.items() if share > 1e-9)
    words = ""
    if masking.needs_words:
        sources = [text.words_from or arguments.segmentation.segmenter or "the text" for text in texts.values()]
        words = f" (words from {' and '.join(dict.fromkeys(sources))})"
    parts = [
        f"{_UNITS[one]} in {percent(share)} of the sequences" if share < 1 else _UNITS[one]
        for one, share in masking.shares.items()
    ]
    return f"{', '.join(parts)}{words}, {masking.rates}: {replaced}"


def _device(trainer: MlmTrainer) -> str:
    training, model = trainer.args, cast(torch.nn.Module, trainer.model)
    device, processes, half = training.device, training.world_size, training.half_dtype
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        threads = f" with {counted(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
        name = f"{device.type.upper()}{threads}"
    tf32 = device.type == "cuda" and is_torch_tf32_available() and torch.backends.cuda.matmul.fp32_precision == "tf32"
    weights = next(model.parameters()).dtype
    kinds = [f"{half} autocast"] if half else []
    kinds += [f"{weights} weights"] if weights != torch.float32 else []
    precision = ", ".join(kinds).replace("torch.", "") or ("float32 (tf32)" if tf32 else "float32")
    residual = "" if training.residual_in_fp32 else ", the residual too"
    compiled = ", compiled" if training.torch_compile else ""
    each_on = f"{processes} processes, each on " if processes > 1 else ""
    return f"{each_on}{name}, {precision}{residual}{compiled}"


def _steps(trainer: MlmTrainer) -> str:
    planned, done, settings = trainer.planned_steps, trainer.done.step, trainer.step_settings
    plan, sequences = trainer.plan, trainer.train_sequences
    if trainer.is_finished():
        return f"{done:,}, all of them done" if done == planned else f"none; {done:,} are done, {planned:,} asked for"
    left = f", {done:,} of them done" if done else ""
    if plan is None or not isinstance(sequences, StagedSequences):
        return f"{planned:,}{left}, each of {counted(settings.step_size, 'sequence')}"
    epochs = trainer.args.num_train_epochs if trainer.args.max_steps < 0 else plan.epochs_at(planned)
    shown = f"{epochs:,.2f}".rstrip("0").rstrip(".") if epochs >= 0.01 else "less than 0.01"
    in_epochs = f"{planned:,} in {shown} {'epoch' if shown == '1' else 'epochs'}{left}"
    if trainer.args.tokens_per_step:
        return f"{in_epochs}, each of {trainer.args.tokens_per_step:,} tokens or a few more"
    stage, last = plan.stages[-1], sequences.stages[-1]
    in_step = min(stage.layout.step_size, len(last))
    tokens = sum(_tokens_in_epoch(sequences)) * in_step / max(len(last), 1)
    each = f"each of {counted(in_step, 'sequence')}, about {number(tokens, 3)} tokens"
    return f"{in_epochs}, {each}"
