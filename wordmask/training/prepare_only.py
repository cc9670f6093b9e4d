"""A run that only tokenizes, `--prepare_only`: without a model and an output directory."""

from __future__ import annotations

from pathlib import Path

from wordmask.config.arguments import Arguments
from wordmask.data.prepared_dir import prepare
from wordmask.data.sources import Texts
from wordmask.data.token_store import Tokenization
from wordmask.models.loading import load_tokenizer
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.training.choose_words import add_chosen_words
from wordmask.training.inputs import decide_tasks, load_run_texts
from wordmask.utils.lock import locked
from wordmask.utils.parts import Work
from wordmask.utils.processes import check_one_process
from wordmask.utils.terminal import clean, terminal


def prepare_only(arguments: Arguments) -> dict[str, float]:
    """Tokenize the splits that this run needs into --prepared_dir, without a model or an --output_dir."""
    training, data = arguments.training, arguments.data
    check_one_process(training.world_size, "--prepare_only", "--preprocessing_num_workers")
    work = Work(data.preprocessing_num_workers or 1, data.part_lines, data.num_shards, data.shard_index)
    texts = load_run_texts(arguments)
    decide_tasks(arguments, texts)
    terminal().doing("tokenizing the text")
    tokenizer = load_tokenizer(arguments.model)
    add_chosen_words(arguments.model, tokenizer, texts)
    Vocabulary.of(tokenizer)  # refuses a tokenizer without a mask token
    needed = {"train": training.do_train, "validation": training.do_eval}
    tokenization = Tokenization(tokenizer, data, arguments.needed_segmentation, arguments.model.cache_dir)
    needed_texts = {split: text for split, text in texts.items() if needed[split] and isinstance(text, Texts)}
    directory = Path(str(data.prepared_dir))
    with locked(directory / ".wordmask", f"--prepared_dir: {directory}", work.shard):
        rate = arguments.masking.rates.final
        result = prepare(
            needed_texts, tokenization, arguments.segmentation, work, rate, arguments.training.text_in_results
        )
    terminal().close()
    print(clean(result))
    return {}
