"""What each column of an Arrow table holds: of Parquet files, and of datasets."""

from __future__ import annotations

import pyarrow as pa

from wordmask.utils.readers.columns import LISTS_OF, Keys, Kind

KINDS: dict[pa.DataType, str] = {
    **dict.fromkeys((pa.string(), pa.large_string(), pa.string_view()), Kind.TEXT),
    **dict.fromkeys((pa.binary(), pa.large_binary(), pa.binary_view()), Kind.BYTES),
    pa.null(): Kind.NOTHING,
}
LIST_TYPES = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)


def kinds_of(schema: pa.Schema) -> dict[Keys, str]:
    """What each column of a schema holds, with the fields inside columns."""
    kinds: dict[Keys, str] = {}

    def add(field: pa.Field, above: Keys) -> None:
        keys, inner = (*above, field.name), field.type
        kinds[keys] = _kind(inner)
        while isinstance(inner, LIST_TYPES):
            inner = inner.value_type
        if pa.types.is_struct(inner):
            for child in inner:
                add(child, keys)

    for field in schema:
        add(field, ())
    return kinds


def _kind(column_type: pa.DataType) -> str:
    if isinstance(column_type, pa.DictionaryType):
        return _kind(column_type.value_type)
    if isinstance(column_type, LIST_TYPES):
        return LISTS_OF.get((_kind(column_type.value_type),), str(column_type))
    if pa.types.is_struct(column_type):
        return Kind.OBJECT
    is_number = pa.types.is_integer(column_type) or pa.types.is_floating(column_type)
    return KINDS.get(column_type, Kind.NUMBERS if is_number else str(column_type))
