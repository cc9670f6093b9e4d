"""`import wordmask`: the names it gives, how little it costs, and each name in use as its docstring shows."""

from __future__ import annotations

import ast
import gc
import logging
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    ElectraConfig,
    ElectraForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    TrainingArguments,
)

import wordmask
from conftest import sample_lines, sample_tokenizer, save_model
from wordmask.data.tokenized_dataset import TokenizedDataset
from wordmask.models.forward import Forward
from wordmask.models.micro_batches import divide_batch
from wordmask.models.padding_mask import padding_mask
from wordmask.references import positions
from wordmask.segmenters import make_segmenter

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("module", ["wordmask", "wordmask.utils.errors"])
def test_importing_the_package_imports_nothing_else(module):
    code = f"import sys; before = {{*sys.modules}}; import {module}; print(sorted({{*sys.modules}} - before))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found = {name.split(".")[0] for name in ast.literal_eval(shown.stdout)}
    assert "wordmask" in found and found - {"wordmask"} <= sys.stdlib_module_names


def test_every_public_name_is_there_with_a_docstring():
    assert {*wordmask.__all__} <= {*dir(wordmask)}
    for name in wordmask.__all__:
        assert getattr(wordmask, name).__doc__, name
    with pytest.raises(AttributeError, match="Collator"):
        wordmask.Collator  # noqa: B018


def test_type_checkers_see_the_names_that_are_imported_on_use():
    tree = ast.parse(Path(wordmask.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == wordmask._MODULES and sorted(seen) == sorted(wordmask.__all__)


@pytest.fixture
def tokenizer(english_model):
    return AutoTokenizer.from_pretrained(english_model)


@pytest.fixture
def dataset(tokenizer):
    return Dataset.from_dict({"input_ids": tokenizer(sample_lines("english", 20))["input_ids"]})


def losses(model, batches) -> list[float]:
    """The losses of a bare loop."""
    optimizer, found = torch.optim.SGD(model.parameters(), lr=0.1), []
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def test_sparse_prediction_gives_the_same_losses_in_a_bare_loop(english_model, tokenizer, dataset):
    batches = list(DataLoader(dataset, 4, collate_fn=wordmask.WholeWordMaskCollator(tokenizer)))
    full, sparse = (AutoModelForMaskedLM.from_pretrained(english_model).eval() for _ in range(2))
    expected = losses(full, batches)
    with wordmask.sparse_prediction(sparse):
        assert losses(sparse, batches) == pytest.approx(expected, rel=1e-5)
        labels = batches[0]["labels"]
        logits = sparse(**batches[0]).logits
        assert logits.shape == (1, int((labels != -100).sum()), len(tokenizer))
        # Inputs without labels go through as ever, and an error inside leaves nothing behind.
        inputs = {name: batches[0][name] for name in ("input_ids", "attention_mask")}
        with pytest.raises(IndexError):
            sparse(input_ids=labels.clamp(min=0) + len(tokenizer), labels=labels)
        assert sparse(**inputs).logits.shape[:2] == labels.shape
    assert expected[0] != expected[1] and not sparse._forward_pre_hooks and not sparse._forward_hooks
    assert sparse(**batches[0]).logits.shape[:2] == labels.shape


@pytest.mark.slow
def test_sparse_prediction_takes_a_compiled_model(english_model, tokenizer, dataset):
    batch = wordmask.WholeWordMaskCollator(tokenizer)([dataset[0], dataset[1]])
    model = AutoModelForMaskedLM.from_pretrained(english_model).eval()
    compiled, expected = torch.compile(model, backend="eager"), model(**batch).loss.item()
    with wordmask.sparse_prediction(compiled):
        outputs = compiled(**batch)
    assert outputs.loss.item() == pytest.approx(expected, rel=1e-5)
    assert outputs.logits.shape[:2] == (1, int((batch["labels"] != -100).sum()))


def test_a_model_that_cannot_predict_at_some_positions_is_refused(english_model):
    model = AutoModelForMaskedLM.from_pretrained(english_model)
    head = model.cls
    model.cls = torch.nn.Module()
    model.cls.forward = lambda hidden: head(hidden.cumsum(1))  # a head that looks beside a position
    with (
        pytest.raises(wordmask.InputError, match="sparse_prediction: BertForMaskedLM"),
        wordmask.sparse_prediction(model),
    ):
        pass
    assert not model.base_model._forward_hooks


def train(model_path, tokenizer, dataset, output_dir, resume=None, **settings):
    args = wordmask.RunArguments(
        output_dir=str(output_dir),
        use_cpu=True,
        report_to="none",
        per_device_train_batch_size=5,
        num_train_epochs=2,
        **settings,
    )
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_pretrained(model_path)
    trainer = wordmask.MlmTrainer(model, args, dataset, dataset, processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_state()
    return trainer


def test_chinese_without_references_is_said_once_for_a_training(chinese_model, tmp_path, caplog):
    """Each worker of each epoch, and of each evaluation, has a collator of its own."""
    chinese = AutoTokenizer.from_pretrained(chinese_model)
    rows = [{"input_ids": ids} for ids in chinese(sample_lines("chinese", 10))["input_ids"]]
    train(chinese_model, chinese, rows, tmp_path, dataloader_num_workers=1, eval_strategy="epoch")
    [sentence] = [message for message in caplog.messages if "chinese_ref" in message]
    assert sentence.startswith("much of the text is Chinese") and "single characters are masked" in sentence


def test_a_trainer_with_a_loader_of_its_own_is_not_resumed(english_model, tokenizer, dataset, tmp_path):
    """It began the epoch again."""

    class OwnLoader(wordmask.MlmTrainer):
        def get_train_dataloader(self):
            return DataLoader(dataset, 5, collate_fn=wordmask.WholeWordMaskCollator(tokenizer))

    args = wordmask.RunArguments(
        str(tmp_path), use_cpu=True, report_to="none", max_steps=2, save_steps=1, per_device_train_batch_size=5
    )
    model = AutoModelForMaskedLM.from_pretrained(english_model)
    trainer = OwnLoader(model, args, dataset, processing_class=tokenizer)
    assert trainer.train().global_step == 2
    args.max_steps = 4
    with pytest.raises(wordmask.InputError, match="^resume_from_checkpoint: OwnLoader has a get_train_dataloader of"):
        OwnLoader(model, args, dataset, processing_class=tokenizer).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("damaged", [False, True])
def test_the_trainer_resumes_from_whole_checkpoints_only(english_model, tokenizer, dataset, tmp_path, damaged):
    """transformers would take a damaged one, and begin the optimizer and the epoch anew."""
    out = tmp_path / "out"
    last = train(english_model, tokenizer, dataset, out, save_strategy="epoch").state.global_step
    newest = out / f"checkpoint-{last}"
    if damaged:
        for checkpoint in out.glob("checkpoint-*"):
            (checkpoint / "optimizer.pt").unlink()
        cases = {True: f"{out} holds no whole checkpoint", str(newest): f"{newest} cannot be used: optimizer.pt is m"}
    else:
        empty = tmp_path / "empty"
        empty.mkdir()
        cases = {str(empty): f"{empty} is not a checkpoint", str(out): f"{out} is the .*output_dir of a run"}
    for given, sentence in cases.items():
        with pytest.raises(wordmask.InputError, match=f"^resume_from_checkpoint: {sentence}"):
            train(english_model, tokenizer, dataset, out, given)


def test_the_trainer_trains_and_evaluates_on_any_tokenized_dataset(english_model, tokenizer, dataset, tmp_path):
    trainer = train(english_model, tokenizer, dataset, tmp_path / "one", save_strategy="epoch")
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_perplexity", "eval_accuracy", "eval_whole_word_accuracy"} <= metrics.keys()
    assert 3 < metrics["eval_loss"] < 9 and metrics == {**metrics, "eval_loss": trainer.evaluate()["eval_loss"]}
    # Masks depend on seed, epoch and example, so a resume ends at the same weights.
    resumed = train(
        english_model, tokenizer, dataset, tmp_path / "two", tmp_path / "one" / "checkpoint-4", save_strategy="no"
    )
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_each_call_of_train_is_a_training_of_its_own(english_model, tokenizer, dataset, tmp_path):
    trainer = train(english_model, tokenizer, dataset, tmp_path, save_strategy="epoch")
    steps = []
    monitored = trainer.training_step
    trainer.training_step = lambda *args: steps.append(1) or monitored(*args)
    counts, shares = [], []
    for checkpoint in (None, "checkpoint-4", None, "checkpoint-8", "checkpoint-4"):
        steps.clear()
        trainer.train(tmp_path / checkpoint if checkpoint else None)
        counts.append(len(steps))
        shares.append(trainer.state.log_history[-1]["train_data_share"])
        assert trainer.state.global_step == 8
    assert counts == [8, 4, 8, 0, 4]
    assert all(0 <= share <= 1 for share in shares)


def test_a_second_training_has_the_learning_rates_of_the_first_one(english_model, tokenizer, dataset, tmp_path):
    """Its schedule begins anew, and not where the first one ended."""
    trainer = train(english_model, tokenizer, dataset, tmp_path, logging_steps=1, save_strategy="no")
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([5e-5 * (1 - step / 8) for step in range(8)])


def test_a_training_leaves_the_verbosity_that_a_program_has_chosen(
    english_model, tokenizer, dataset, tmp_path, monkeypatch
):
    """It is quieter for a moment, while the Trainer would warn of settings that we have logged."""
    before, said = transformers.utils.logging.get_verbosity(), []
    monkeypatch.setattr(logging.StreamHandler, "emit", lambda self, record: said.append(record.getMessage()))
    transformers.utils.logging.set_verbosity_info()
    try:
        train(english_model, tokenizer, dataset, tmp_path, save_strategy="epoch")
        train(english_model, tokenizer, dataset, tmp_path, tmp_path / "checkpoint-4", logging_steps=1)
        assert transformers.utils.logging.get_verbosity() == logging.INFO
    finally:
        transformers.utils.logging.set_verbosity(before)
    assert said and not any("do not match" in message for message in said)


class Stream(torch.utils.data.IterableDataset):
    """A stream that says how long it is."""

    def __iter__(self):
        return iter([{"input_ids": [2, 5, 3]}])

    def __len__(self):
        return 1


@pytest.mark.parametrize("name, last, workers", [("bert", 70, 0), ("roberta", 69, 0), ("bert", 70, 1)])
def test_a_text_that_is_longer_than_the_model_is_one_sentence(name, last, workers, tmp_path, tokenizer, monkeypatch):
    """On a GPU it would be an error that names no reason. RoBERTa's first position is behind padding."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # how long torch waits for a worker
    args = wordmask.RunArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", max_steps=1, dataloader_num_workers=workers
    )
    model = AutoModelForMaskedLM.from_pretrained(save_model(tmp_path / name, tokenizer, name))
    for length in (last, last + 1):
        rows = Dataset.from_dict({"input_ids": [[5] * length] * 2})
        trainer = wordmask.MlmTrainer(model, args, rows, rows, processing_class=tokenizer)
        if length == last:
            assert trainer.train().training_loss > 0
            continue
        for use in [trainer.train] if workers else [trainer.train, trainer.evaluate]:  # torch waits 10 s for a worker
            with pytest.raises(
                wordmask.InputError, match=f"^input_ids: a text of {length} tokens, .* positions for {last}; .*{last}$"
            ):
                use()
    del trainer, use
    gc.collect()  # ends the worker here, where that takes a moment


def test_an_evaluation_has_the_rate_and_the_strategy_of_its_own_collator(english_model, tokenizer, dataset, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(english_model)
    args = wordmask.RunArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    tokens = sum(len(ids) - 2 for ids in dataset["input_ids"])

    def share(**options) -> float:
        trainer = wordmask.MlmTrainer(model, args, dataset, dataset, processing_class=tokenizer, **options)
        return trainer.evaluate()["eval_masked_tokens"] / tokens

    half = wordmask.WholeWordMaskCollator(tokenizer, 0.5, strategy="token", seed=3)
    third = wordmask.WholeWordMaskCollator(tokenizer, 0.3)
    for options, rate in (
        ({}, 0.15),
        ({"rates": "0.5:0.3"}, 0.3),
        ({"data_collator": third}, 0.3),
        ({"eval_collator": half}, 0.5),
        ({"eval_collator": half, "data_collator": third}, 0.5),
    ):
        assert share(**options) == pytest.approx(rate, abs=0.03)
    assert not half.word_ids, "the user's own collator stays as it is"


@pytest.mark.parametrize("name, wrong", [("epoch", 0.25), ("example_id", 1.5), ("example_id", "1"), ("epoch", None)])
def test_a_number_that_masks_depend_on_must_be_whole(name, wrong, tokenizer, dataset):
    collator, example = wordmask.WholeWordMaskCollator(tokenizer), {**dataset[0], "example_id": 1, "epoch": 2}
    assert collator([example | {name: 1.0}])["labels"].equal(collator([example | {name: np.int64(1)}])["labels"])
    with pytest.raises(wordmask.InputError, match="is not a whole number; give numbers"):
        collator([example | {name: wrong}])


def test_a_batch_goes_to_a_device_as_that_of_other_collators(tokenizer, dataset):
    batch = wordmask.WholeWordMaskCollator(tokenizer)([dataset[0]]).to("cpu")
    assert batch.input_ids.shape == batch["labels"].shape


def test_the_trainer_refuses_what_it_cannot_use(english_model, tokenizer, dataset, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(english_model)
    args = wordmask.RunArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(wordmask.InputError, match="train_dataset: a generator"):
        wordmask.MlmTrainer(model, args, (row for row in dataset), processing_class=tokenizer)
    with pytest.raises(wordmask.InputError, match="eval_dataset: a dict of datasets"):
        wordmask.MlmTrainer(model, args, dataset, {"one": dataset}, processing_class=tokenizer)
    for name in ("data_collator", "eval_collator"):
        with pytest.raises(wordmask.InputError, match=f"{name}: a function does not mask words"):
            wordmask.MlmTrainer(model, args, dataset, processing_class=tokenizer, **{name: lambda batch: batch})
    with pytest.raises(wordmask.InputError, match="tokenizer: .* is called processing_class now"):
        wordmask.MlmTrainer(model, args, dataset, tokenizer=tokenizer)
    with pytest.raises(wordmask.InputError, match="dry_run: an MlmTrainer has none, and would train"):
        dry = wordmask.RunArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", dry_run=True)
        wordmask.MlmTrainer(model, dry, dataset, processing_class=tokenizer)
    with pytest.raises(wordmask.InputError, match="hyperparameter_search: .* one model"):
        wordmask.MlmTrainer(model, args, dataset, processing_class=tokenizer).hyperparameter_search()
    with pytest.raises(wordmask.InputError, match="evaluation: no token of the text can be masked"):
        wordmask.MlmTrainer(model, args, None, [{"input_ids": [2, 3]}] * 3, processing_class=tokenizer).evaluate()
    with pytest.raises(wordmask.InputError, match="args: TrainingArguments .* give a wordmask.RunArguments"):
        plain = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
        wordmask.MlmTrainer(model, plain, dataset, processing_class=tokenizer)
    for name in ("compute_metrics", "preprocess_logits_for_metrics", "compute_loss_func", "model_init"):
        with pytest.raises(wordmask.InputError, match=f"^{name}: .* not called; drop it"):
            wordmask.MlmTrainer(model, args, dataset, processing_class=tokenizer, **{name: len})
    with pytest.raises(wordmask.InputError, match="^model: a str is no model"):
        wordmask.MlmTrainer("bert-base-uncased", args, dataset, processing_class=tokenizer)
    with pytest.raises(wordmask.InputError, match="^model: a Sequential has no config of transformers"):
        wordmask.MlmTrainer(torch.nn.Sequential(), args, dataset, processing_class=tokenizer)
    causal = GPT2LMHeadModel(GPT2Config(vocab_size=600, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(wordmask.InputError, match="^model: a GPT2LMHeadModel predicts the next token"):
        wordmask.MlmTrainer(causal, args, dataset, processing_class=tokenizer)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    for other in (
        ElectraForPreTraining(ElectraConfig(vocab_size=600, **size)),
        BertForPreTraining(BertConfig(**size)),
    ):
        with pytest.raises(wordmask.InputError, match="^model: .* has another loss than that of masked words; give a"):
            wordmask.MlmTrainer(other, args, dataset, processing_class=tokenizer)
    decoder = BertForMaskedLM(BertConfig(vocab_size=600, is_decoder=True, **size))
    with pytest.raises(wordmask.InputError, match="^model: BertForMaskedLM has is_decoder=true"):
        wordmask.MlmTrainer(decoder, args, dataset, processing_class=tokenizer)
    bart = BartConfig(
        vocab_size=600,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=1,
        decoder_attention_heads=1,
    )
    with pytest.raises(wordmask.InputError, match="^model: BartForConditionalGeneration is an encoder-decoder"):
        wordmask.MlmTrainer(BartForConditionalGeneration(bart), args, dataset, processing_class=tokenizer)
    evaluates = wordmask.RunArguments(output_dir=str(tmp_path), use_cpu=True, eval_strategy="steps", eval_steps=1)
    with pytest.raises(wordmask.InputError, match="^eval_strategy: steps needs an eval_dataset"):
        wordmask.MlmTrainer(model, evaluates, dataset, processing_class=tokenizer)
    dropping = wordmask.RunArguments(output_dir=str(tmp_path), use_cpu=True, dataloader_drop_last=True)
    with pytest.raises(wordmask.InputError, match="dataloader_drop_last: 2 sequences do not fill a step of 8"):
        wordmask.MlmTrainer(model, dropping, dataset.select([0, 1]), processing_class=tokenizer).train()
    others = wordmask.WholeWordMaskCollator(sample_tokenizer("roberta", 600))
    for name in ("data_collator", "eval_collator"):
        with pytest.raises(
            wordmask.InputError, match=f"^{name}: its tokenizer has other tokens than processing_class"
        ):
            wordmask.MlmTrainer(model, args, dataset, dataset, processing_class=tokenizer, **{name: others})
    masks_otherwise = deepcopy(tokenizer)
    masks_otherwise.mask_token = masks_otherwise.unk_token
    collator = wordmask.WholeWordMaskCollator(masks_otherwise)
    with pytest.raises(wordmask.InputError, match="^data_collator: its tokenizer has other tokens"):
        wordmask.MlmTrainer(model, args, dataset, data_collator=collator, processing_class=tokenizer)
    with pytest.raises(wordmask.InputError, match=r"^tokenizer: its ids go up to 1999, .* for 600; .*\(2000\)"):
        wordmask.MlmTrainer(model, args, dataset, processing_class=sample_tokenizer("roberta", 2000))
    for wrong, sentence in {
        "train.txt": "a str is no dataset",
        "empty": "a Dataset without any example",
        "split": "a DatasetDict is no dataset; give .* split",
        "text": "its first example is the columns text, without input_ids",
        "list": "its first example is a list",
        "stream": "a Stream has no length",
    }.items():
        given = {
            "empty": dataset.select([]),
            "split": DatasetDict(train=dataset),
            "text": Dataset.from_dict({"text": ["walk"]}),
            "list": [[2, 3]],
            "stream": Stream(),
        }.get(wrong, wrong)
        with pytest.raises(wordmask.InputError, match=f"^train_dataset: {sentence}"):
            wordmask.MlmTrainer(model, args, given, processing_class=tokenizer)
    with pytest.raises(wordmask.InputError, match="^rates: 15 is no masking rate"):
        wordmask.MlmTrainer(model, args, dataset, processing_class=tokenizer, rates=15)
    with pytest.raises(wordmask.InputError, match="processing_class is missing"):
        wordmask.MlmTrainer(model, args, dataset)
    with pytest.raises(wordmask.InputError, match="train_dataset is missing"):
        wordmask.MlmTrainer(model, args, processing_class=tokenizer).train()
    with (
        pytest.raises(wordmask.InputError, match="sparse_prediction: a Linear"),
        wordmask.sparse_prediction(torch.nn.Linear(2, 2)),
    ):
        pass
    with pytest.raises(wordmask.InputError, match="tokenizer: a str is no tokenizer"):
        wordmask.WholeWordMaskCollator("bert-base-uncased")


def test_word_ids_are_those_of_words_alone(tokenizer, dataset):
    collator = wordmask.WholeWordMaskCollator(tokenizer, return_word_ids=True)
    batch = collator([dataset[number] for number in range(4)])
    special = torch.isin(batch["input_ids"], torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id]))
    special |= batch["attention_mask"] == 0
    assert torch.equal(batch["word_ids"] == -1, special)


@pytest.mark.parametrize("rate", [2.0, -1, float("nan"), "x"])
def test_a_rate_of_an_example_is_a_share(tokenizer, dataset, rate):
    with pytest.raises(wordmask.InputError, match=f"mlm_probability: {rate} of an example is not between 0 and 1"):
        wordmask.WholeWordMaskCollator(tokenizer)([{**dataset[0], "mlm_probability": rate}])


def test_an_example_keeps_a_masking_rate_of_its_own(english_model, tokenizer, dataset, tmp_path):
    rates = [0.0 if number < 10 else 0.9 for number in range(len(dataset))]
    rates[-1] = None  # as of an example without the column in `concatenate_datasets`
    rated = dataset.add_column("mlm_probability", rates)
    trainer = train(
        english_model, tokenizer, rated, tmp_path, save_strategy="no", train_sampling_strategy="sequential"
    )
    batches = [batch["labels"].ne(-100).sum(1).tolist() for batch in trainer.get_train_dataloader()]
    counts = [count for batch in batches[:4] for count in batch]
    assert counts[:10] == [0] * 10 and min(counts[10:]) > 3
    assert wordmask.WholeWordMaskCollator(tokenizer)([rated[-1]])["labels"].ne(-100).any()


class OwnLabels(wordmask.WholeWordMaskCollator):
    """Pads to 40 tokens, and predicts the first token of each text, too."""

    seen = 0

    def __call__(self, examples, return_tensors="pt"):
        batch = super().__call__(examples, return_tensors)
        self.seen += len(examples)
        missing = (0, 40 - batch["labels"].shape[1])
        fills = {"input_ids": self.vocabulary.pad_token_id, "attention_mask": 0, "labels": -100, "token_type_ids": 0}
        padded = {name: torch.nn.functional.pad(values, missing, value=fills[name]) for name, values in batch.items()}
        padded["labels"][:, 1] = padded["input_ids"][:, 1]
        return padded


@pytest.mark.parametrize("settings", [{}, {"micro_batch_tokens": 60}], ids=["whole", "micro-batches"])
@pytest.mark.parametrize("pads", [False, True])
def test_a_batch_of_a_collator_of_ones_own_is_trained_as_it_is(
    english_model, tokenizer, dataset, tmp_path, pads, settings
):
    """With the positions of its labels and the mask of its padding, which a GPU needs in advance."""
    model = AutoModelForMaskedLM.from_pretrained(english_model).eval()
    collator = OwnLabels(tokenizer, mlm_probability=0.3)
    examples = dataset.select(range(5))
    if not pads:
        examples = Dataset.from_dict({"input_ids": [[2, *range(10, 48), 3]] * 5})
    args = wordmask.RunArguments(str(tmp_path), per_device_train_batch_size=5, use_cpu=True, report_to="none")
    forward = Forward.of(model, True, padding=padding_mask(model), **settings)
    trainer = wordmask.MlmTrainer(model, args, examples, data_collator=collator, forward=forward)
    assert trainer.data_collator is collator
    [batch] = trainer.get_train_dataloader()
    assert collator.seen == 5
    if settings:
        assert not {"positions", "is_padded"} & {*batch}, "its parts get their own"
    else:
        assert batch["is_padded"] == pads
        assert batch["positions"].tolist() == (batch["labels"].flatten() != -100).nonzero().flatten().tolist()
    with torch.no_grad():
        expected = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss
        parts = list(divide_batch(batch, 60)) if settings else [batch]
        found = [forward(model, part) for part in parts]
    shares = [float((part["labels"] != -100).sum() / (batch["labels"] != -100).sum()) for part in parts]
    losses = [float(one.loss) * share for one, share in zip(found, shares, strict=True)]
    assert sum(losses) == pytest.approx(float(expected), rel=1e-5)
    assert bool((batch["attention_mask"] == 0).any()) == pads


def test_evaluations_have_the_masks_of_the_data_seed_alone(english_model, tokenizer, dataset, tmp_path):
    model, losses = AutoModelForMaskedLM.from_pretrained(english_model), {}
    for seed, data_seed, of_collator in ((1, None, None), (2, None, None), (2, None, 7), (2, 3, None), (2, 3, 7)):
        args = wordmask.RunArguments(str(tmp_path), seed=seed, data_seed=data_seed, use_cpu=True, report_to="none")
        own = {"data_collator": wordmask.WholeWordMaskCollator(tokenizer, seed=of_collator)} if of_collator else {}
        trainer = wordmask.MlmTrainer(model, args, dataset, dataset, processing_class=tokenizer, **own)
        losses[seed, data_seed, of_collator] = trainer.evaluate()["eval_loss"]
    assert losses[1, None, None] == losses[2, None, None] == losses[2, None, 7] != losses[2, 3, None]
    assert losses[2, 3, None] == losses[2, 3, 7]


def test_a_model_may_lack_embeddings_of_tokens_that_are_never_needed(english_model, tokenizer, dataset, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(english_model)
    args = wordmask.RunArguments(str(tmp_path), max_steps=1, use_cpu=True, report_to="none")
    tokenizer.add_special_tokens({"additional_special_tokens": ["[UNUSED]"]})
    wordmask.MlmTrainer(model, args, dataset, processing_class=tokenizer).train()
    tokenizer.add_tokens(["walkable"])
    with pytest.raises(wordmask.InputError, match="^tokenizer: its ids go up to 601, .* for 600;"):
        wordmask.MlmTrainer(model, args, dataset, processing_class=tokenizer)


def test_a_named_segmenter_is_loaded_once_in_a_process(tokenizer, monkeypatch):
    made = []
    monkeypatch.setattr(positions, "make_segmenter", lambda *given: made.append(given) or make_segmenter(*given))
    positions._kept.cache_clear()
    for _ in range(3):
        assert wordmask.make_references(["a b"], tokenizer, "whitespace") == [[]]
    assert made == [("whitespace",)]


def test_lengths_are_those_of_the_examples_as_they_are_read(dataset):
    long = [len(example["input_ids"]) for example in dataset]
    assert TokenizedDataset(dataset, "train_dataset").lengths.tolist() == long
    short = dataset.with_transform(lambda batch: {"input_ids": [ids[:2] for ids in batch["input_ids"]]})
    lengths = TokenizedDataset(short, "train_dataset").lengths
    assert lengths.tolist() == [2] * len(dataset) and lengths.dtype == "int64"


def test_predict_gives_the_figures_of_an_evaluation(english_model, tokenizer, dataset, tmp_path):
    trainer = train(english_model, tokenizer, dataset, tmp_path, save_strategy="no")
    predicted, evaluated = trainer.predict(dataset).metrics, trainer.evaluate()
    assert predicted["test_loss"] == evaluated["eval_loss"]
    assert predicted["test_whole_word_accuracy"] == evaluated["eval_whole_word_accuracy"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"learning_rate": "1e-4"}, "--learning_rate: '1e-4' is a str; give a number"),
        ({"max_steps": "5"}, "--max_steps: '5' is a str"),
        ({"max_steps": 2.5}, "--max_steps: 2.5 is not possible; give a whole number from 1 on"),
        ({"per_device_train_batch_size": 2.5}, "_size: 2.5 is not possible; give a whole number from 1 on$"),
        ({"gradient_accumulation_steps": 1.5}, "_steps: 1.5 is not possible; give a whole number from 1 to 1000000$"),
        ({"output_dir": 3}, "--output_dir: 3 is no name"),
    ],
)
def test_arguments_of_a_wrong_type_get_a_sentence(arguments, sentence):
    with pytest.raises(wordmask.InputError, match=sentence):
        wordmask.RunArguments(**{"output_dir": "out"} | arguments)


@pytest.mark.parametrize(
    "lines, segmenter, sentence",
    [
        ("我喜欢你", "whitespace", "^lines: a str is no list of lines"),
        ({"text": ["我"]}, "whitespace", "^lines: a dict is no list of lines"),
        (None, "whitespace", "^lines: None"),
        (["我", None], "whitespace", "^lines: number 1 is None; give strings"),
        (["我", "喜\ud800"], "whitespace", "^lines: number 1 holds .* without its other half; remove it"),
        (["我"], None, "^segmenter: None is no segmenter"),
        (["我"], wordmask.Segmenter, "^segmenter: the class Segmenter is no segmenter"),
        (["我"], "ltp", '^segmenter ltp needs an object, load_segmenter."ltp", model=".*; give it$'),
    ],
)
def test_references_of_what_is_no_text_are_refused(tokenizer, lines, segmenter, sentence):
    with pytest.raises(wordmask.InputError, match=sentence):
        wordmask.make_references(lines, tokenizer, segmenter)
    with pytest.raises(wordmask.InputError, match="^tokenizer: a str is no tokenizer"):
        wordmask.make_references(["我"], "bert-base-chinese")


def test_a_model_that_cannot_be_trained_is_refused(english_model, tokenizer, dataset, tmp_path):
    trainer = train(english_model, tokenizer, dataset, tmp_path, save_strategy="no")
    trainer.model.requires_grad_(False)
    with pytest.raises(wordmask.InputError, match="^model: all of its weights are frozen; set requires_grad"):
        trainer.train()
    classifier = AutoModelForSequenceClassification.from_config(trainer.model.config)
    for model, does in ((trainer.model.base_model, "has no loss"), (classifier, "sorts texts into classes")):
        with pytest.raises(wordmask.InputError, match=f"^model: a Bert[A-Za-z]* {does}; give a masked language model"):
            wordmask.MlmTrainer(model, trainer.args, dataset, processing_class=tokenizer)


def test_a_class_of_ones_own_may_pass_its_parameters_on(english_model, tokenizer, dataset, tmp_path):
    class Mine(BertForMaskedLM):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    args = wordmask.RunArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=1, save_strategy="no")
    trainer = wordmask.MlmTrainer(Mine.from_pretrained(english_model), args, dataset, processing_class=tokenizer)
    assert trainer.train().training_loss > 0


def test_sparse_prediction_refuses_what_is_no_model():
    for wrong, kind in ((None, "None"), ("bert", "a str")):
        with (
            pytest.raises(wordmask.InputError, match=f"^sparse_prediction: {kind} is no model of transformers"),
            wordmask.sparse_prediction(wrong),
        ):
            pass


def test_a_metric_that_no_evaluation_gives_is_refused_before_training(english_model, tokenizer, dataset, tmp_path):
    for metric in ("probe_f1", "eval_news_loss"):
        with pytest.raises(wordmask.InputError, match=f"an evaluation here gives no {metric}; choose from loss, "):
            train(english_model, tokenizer, dataset, tmp_path, save_strategy="no", metric_for_best_model=metric)


def test_segmenters_name_parameters_where_they_are_refused():
    for name, options, sentence in (
        ("jieba", {"mode": "A"}, "^load_segmenter: jieba cannot use mode=; it takes user_dict, hmm$"),
        ("ltp", {}, "^load_segmenter: ltp needs model; give it$"),
        (None, {}, "^name: None is no name of a segmenter"),
    ):
        with pytest.raises(wordmask.InputError, match=sentence):
            wordmask.load_segmenter(name, **options)


def test_references_name_parameters_where_they_are_refused(tokenizer):
    with pytest.raises(wordmask.InputError, match="^segmenter none: no such segmenter"):
        wordmask.make_references(["a"], tokenizer, "none")
