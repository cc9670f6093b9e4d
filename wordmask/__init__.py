"""Masked language modelling with whole words, on the Hugging Face Trainer."""

__version__ = "0.1.0"
