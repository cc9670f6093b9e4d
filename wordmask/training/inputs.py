"""The inputs of a run: the texts that it needs, and the sequences that they become."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wordmask.config.arguments import Arguments
from wordmask.config.data_arguments import check_number_of_weights
from wordmask.config.flag_checks import needs_validation_text, without_evaluation
from wordmask.data.corpora import quotas
from wordmask.data.data_report import DataReport
from wordmask.data.findings import SplitText
from wordmask.data.prepared_dir import RunTexts, load_prepared, tokens_of, word_flags
from wordmask.data.sequences import Sequences, StagedSequences, StreamedSequences, count_special_tokens, no_tokens
from wordmask.data.sources import load_texts
from wordmask.data.token_store import Tokenization
from wordmask.models.positions import choose_length, longest_sequence
from wordmask.utils.cache import hashed
from wordmask.utils.errors import InputError
from wordmask.utils.quantities import counted
from wordmask.utils.terminal import terminal

logger = logging.getLogger(__name__)


@dataclass
class RunSequences:
    """The sequences of a run; `None` for a split that it does not use. And the report on their texts.

    Attributes:
        validation_digest: that of the text of `validation`.
    """

    train: StagedSequences | StreamedSequences | None = None
    validation: Sequences | None = None
    validation_digest: str = ""
    report: DataReport = field(default_factory=DataReport)


def load_run_texts(arguments: Arguments) -> RunTexts:
    """Load the texts that this run may need, by split."""
    terminal().doing("reading the text")
    training, data, model = arguments.training, arguments.data, arguments.model
    if data.is_prepared:
        texts = load_prepared(data, arguments.segmentation)
        if arguments.needed_segmentation is not None:  # the record of the run says where its words are from
            arguments.given |= word_flags(texts)
        return texts
    if training.local_process_index:  # the first process of this machine has read and tokenized it again
        data.overwrite_cache = False
    must_evaluate = training.do_eval if arguments.evaluation_flag or not arguments.no_task_given else False
    with training.main_process_first(desc="reading the text"):
        return load_texts(data, model.cache_dir, model.token, must_evaluate, arguments.no_task_given)


def decide_tasks(arguments: Arguments, texts: RunTexts) -> None:
    """Without --do_train and --do_eval, a run does what it has texts for.

    Raises:
        InputError: if it lacks a text for what it is asked to do.
    """
    training, data = arguments.training, arguments.data
    if arguments.no_task_given:
        training.do_train = "train" in texts
        training.do_eval = "validation" in texts
        if not training.do_eval:
            without_evaluation(arguments)
        if training.do_train and not training.do_eval:
            logger.warning("there is no validation text, so nothing is evaluated; give one with --validation_file")
    for split, wanted in (("train", training.do_train), ("validation", training.do_eval)):
        if wanted and split not in texts and data.is_prepared:
            raise InputError(
                f"--prepared_dir: {data.prepared_dir} has no {split} text; run --prepare_only with the same flags"
            )
    if training.do_train and "train" not in texts:
        raise InputError("--do_train needs training text; give --train_file, or a --dataset_name with a split train")
    if training.do_eval and "validation" not in texts:
        raise needs_validation_text(arguments.evaluation_flag or "--do_eval")
    if training.eval_on_start is None:
        training.eval_on_start = training.do_train and training.do_eval
    if data.streaming and training.do_train and training.max_steps <= 0 and not arguments.masking.preview_masking:
        raise InputError("--streaming needs --max_steps, since a stream has no known length; add it")


def sequence_lengths(arguments: Arguments, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The longest sequence of each stage, in tokens; evaluation uses the longest of all."""
    data, limit, specials = arguments.data, longest_sequence(model, tokenizer), count_special_tokens(tokenizer)
    if data.stages:
        return [choose_length(length, limit, specials, "--length_schedule") for length, _ in data.stages]
    asked = data.max_seq_length or arguments.model.max_position_embeddings
    return [choose_length(asked, limit, specials, "--max_seq_length")]


def make_sequences(
    texts: RunTexts, tokenization: Tokenization, arguments: Arguments, lengths: list[int]
) -> RunSequences:
    """Tokenize the texts that are used, and divide their tokens into sequences.

    Args:
        texts: the texts by split.
        tokenization: the tokenizer and how it is used.
        arguments: of the run.
        lengths: the longest sequence of each stage, in tokens.

    Raises:
        InputError: if a text has no token.
    """
    terminal().doing("tokenizing the text")
    training, data = arguments.training, arguments.data
    sequences, reported = RunSequences(), dict[str, SplitText]()
    with training.main_process_first(desc="tokenizing"):
        if "train" in texts and (training.do_train or arguments.masking.preview_masking):
            sequences.train, text = _train_sequences(texts["train"], tokenization, arguments, lengths)
            reported |= {"train": text} if text else {}
        if "validation" in texts and (training.do_eval or not sequences.train):
            stream, corpora = tokens_of(texts["validation"], tokenization), texts["validation"].corpora
            if data.train_weights and data.is_prepared and not corpora:
                raise InputError(
                    f"--train_weights: the validation text in {data.prepared_dir} is a part of the first corpus "
                    "alone; run --prepare_only with --train_weights into a new directory"
                )
            limit = data.max_eval_samples
            sequences.validation = Sequences(stream, tokenization, max(lengths), limit=limit, corpora=corpora)
            sequences.validation_digest = hashed(texts["validation"].fingerprint, data.max_eval_samples)
            reported["validation"] = sequences.validation.text
    rate = arguments.masking.rates.final
    masks_words, shows_text = tokenization.segmentation is not None, training.text_in_results
    sequences.report = DataReport.of(reported, tokenization.tokenizer, masks_words, rate, shows_text)
    for split in ("train", "validation"):
        of_split = getattr(sequences, split)
        if isinstance(of_split, Sequences | StagedSequences) and not len(of_split):
            raise no_tokens(texts[split].flag)
    return sequences


def _train_sequences(
    text: Any, tokenization: Tokenization, arguments: Arguments, lengths: list[int]
) -> tuple[StagedSequences | StreamedSequences, SplitText | None]:
    """The sequences to train on, and what the data report needs; only one process reads a stream for that."""
    training, data = arguments.training, arguments.data
    if data.streaming:
        processes = training.world_size, training.process_index
        rates = replace(arguments.masking.rates, seed=training.mask_seed)
        streamed = StreamedSequences(text, tokenization, lengths[0], rates, *processes)
        first = streamed.first_text() if training.should_log else None
        text.segmented_by = first.found.segmented_by if first else ""
        return streamed, first
    stream = tokens_of(text, tokenization)
    weights, corpora = data.train_weights or [], text.corpora if data.train_weights else []
    if weights:
        where = "the corpora in --prepared_dir" if data.is_prepared else "the files with text in --train_file"
        check_number_of_weights(weights, len(corpora), where, f"{', '.join(corpus.name for corpus in corpora)}")
    options = data.pack_sequences, data.max_train_samples, corpora
    stages = [Sequences(stream, tokenization, length, *options) for length in lengths]
    for stage in stages if weights else ():
        _check_shares(stage, weights)
    shares = [share for _, share in data.stages] or [1.0]
    return StagedSequences(stages, shares, weights), min(stages, key=lambda stage: stage.length).text


def _check_shares(sequences: Sequences, weights: list[float]) -> None:
    """Raise an `InputError` if a corpus has no sequence, or none in an epoch."""
    of_each = zip(sequences.corpora, quotas(weights, len(sequences)), pairwise(sequences.bounds), strict=True)
    for corpus, quota, (start, stop) in of_each:
        if start == stop:
            raise no_tokens("--train_weights", corpus.name)
        if not quota:
            raise InputError(
                f"--train_weights: an epoch has {counted(len(sequences), 'sequence')}, and the share of {corpus.name} "
                "is not one of them; give it a larger weight, or leave it out"
            )
