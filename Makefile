PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'

$(VENV)/installed: setup.cfg pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS) -e '.[test]'
	touch $@

install: $(VENV)/installed  ## create the environment, once

# The English text of the demo: the paragraphs of Python's own help that end with a full stop, each once.
ENGLISH_TEXT := import pydoc_data.topics as help; \
	texts = (" ".join(part.split()) for topic in help.topics.values() for part in topic.split("\n\n")); \
	print(*dict.fromkeys(text for text in texts if text.endswith(".")), sep="\n")

# On two threads, such small matrices take twice the CPU time for the same speed; and threads that wait for each other
# take all of it on a busy machine.
demo: export OMP_NUM_THREADS = 1
demo: install  ## mask whole Chinese words by a reference file, then train on English until the model predicts words
	$(BIN)/python run_chinese_ref.py --file_name wordmask/samples/chinese.txt --segmenter jieba --vocab_size 4000 \
		--bert demo_output/tokenizer --save_path demo_output/chinese.ref --overwrite
	$(BIN)/python run_mlm_wwm.py configs/demo_chinese.yaml --preview_masking 3
	@echo "The English text of Python's own help, in demo_output/english.txt"
	@$(BIN)/python -X utf8 -c '$(ENGLISH_TEXT)' > demo_output/english.txt
	$(BIN)/python run_mlm_wwm.py configs/demo.yaml

# A worker runs whole files, since tests of a file share what they made: the demo is run once. Not `--dist loadgroup`:
# pytest-xdist 3.8 names groups in an attribute that pytest 9.2 does not read.
test: install  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadscope

test-all: install  ## run the tests, slow ones included
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "slow or not slow"

# Both take torch as constraints.txt has it, since another version is a download of some GB; TORCH=2.15.0 asks for one.
TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)
test-oldest:  ## run the tests on the oldest direct versions that setup.cfg admits
	$(PYTHON) -m venv --clear .venv-oldest
	sed 's/^torch==.*/torch==$(TORCH)/' constraints-oldest.txt > .venv-oldest/constraints.txt
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=.venv-oldest/constraints.txt

test-newest:  ## run the tests on the newest versions that setup.cfg admits, in a new environment
	$(PYTHON) -m venv --clear .venv-newest
	echo 'torch==$(TORCH)' > .venv-newest/constraints.txt
	$(MAKE) test VENV=.venv-newest CONSTRAINTS=.venv-newest/constraints.txt

faults: install  ## kill, stop and damage runs at all places of a table, and print what became of them
	$(BIN)/python tests/faults/harness.py

# Moments are random; SEED=7 gives those of another soak again.
MINUTES ?= 60
SEED ?=
soak: install  ## train and make references under kills, concurrent starts and full disks; MINUTES=60
	$(BIN)/python tests/faults/soak.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# Benchmarks run in a few minutes on bundled text. For real figures give real data, with sizes to match, for example
# make bench TOKENIZER=bert-base-uncased TEXT=wiki.txt PREPARATION="--times 1" TRAINING="--steps 20"
MASKING ?= --repeats 3
PREPARATION ?= --times 40 --repeats 1
REFERENCES ?= --times 20 --repeats 1
NEURAL ?= --lines 200
TRAINING ?= --layers 2 --hidden 128 --heads 2 --length 128 --steps 10
ENGLISH := $(if $(TOKENIZER),--tokenizer $(TOKENIZER)) $(if $(TEXT),--text $(TEXT))
CHINESE := $(if $(CHINESE_TOKENIZER),--tokenizer $(CHINESE_TOKENIZER)) $(if $(CHINESE_TEXT),--text $(CHINESE_TEXT))

bench: install  ## measure against transformers and the classic scripts; benchmarks/README.md says more
	$(BIN)/python benchmarks/masking.py $(ENGLISH) $(MASKING)
	$(BIN)/python benchmarks/prepare.py $(ENGLISH) $(PREPARATION)
	$(BIN)/python benchmarks/chinese_ref.py $(CHINESE) $(if $(LTP),--ltp $(LTP)) $(REFERENCES)
	$(BIN)/python benchmarks/neural.py $(CHINESE) $(NEURAL)
	$(BIN)/python benchmarks/train.py $(ENGLISH) $(TRAINING)

# On a machine without a network this uses the Python that has PyTorch. Options: make bench-gpu GPU="--only tests"
GPU ?=
RESULTS ?= gpu_results
bench-gpu:  ## measure a GPU; benchmarks/README.md says what it needs
	PYTHONPATH=.:$$PYTHONPATH $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py \
		--output_dir $(RESULTS) $(if $(TEXT),--text $(TEXT)) $(GPU)

check: install  ## lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: help install demo test test-all test-oldest test-newest faults soak bench bench-gpu check
