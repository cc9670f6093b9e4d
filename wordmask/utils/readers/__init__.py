"""From a file of any format to its texts, in order. Each format has one reader.

To add a format, write a class with the methods of `tables.Table`, add its ending to `paths.FORMATS`, and make
it in `tables.open_table`.
"""

from __future__ import annotations

from wordmask.utils.readers.columns import Column
from wordmask.utils.readers.tables import check_column_name, choose_column
from wordmask.utils.readers.text_reader import TextReader, read_columns, read_lines, read_words, summary

__all__ = [
    "Column",
    "TextReader",
    "check_column_name",
    "choose_column",
    "read_columns",
    "read_lines",
    "read_words",
    "summary",
]
