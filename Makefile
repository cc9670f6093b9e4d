PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

help:  ## what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

install: $(VENV)/installed  ## create the environment, once

demo: install  ## train whole word masking on the bundled Chinese text, with reference files
	$(BIN)/python run_chinese_ref.py --file_name wordmask/samples/chinese.txt --segmenter jieba --vocab_size 4000 \
		--bert demo_output/tokenizer --save_path demo_output/chinese.ref --overwrite
	$(BIN)/python run_mlm_wwm.py configs/demo_chinese.yaml --preview_masking 3
	$(BIN)/python run_mlm_wwm.py configs/demo_chinese.yaml

test: install  ## run the tests
	$(BIN)/python -m pytest -n 2

check: install  ## lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: help install demo test check
