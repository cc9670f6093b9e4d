"""From a file of any format to its texts, in order. Each format has one reader.

| module | what it does |
|---|---|
| `open_file` | reads text files, one text on each line; knows the line for messages and the bytes for progress bars |
| `delimited` | reads CSV and TSV |
| `json_file` | reads JSON: one object on each line, or one document |
| `parquet_file` | reads Parquet |
| `arrow_schema` | says what each column of an Arrow table holds |
| `tables` | opens the table in a file of any format |
| `text_reader` | reads texts, lines and words from files of any format |
| `columns` | chooses the column that is the text, for all formats |
| `paths` | finds the files that names, globs and directories stand for |

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
