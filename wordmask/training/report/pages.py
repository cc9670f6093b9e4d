"""Pages and cards for people: fill the templates in templates/, and write the result over no file of others."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from wordmask import __version__
from wordmask.training.records.file_names import MARK, is_ours
from wordmask.utils import quantities
from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import write_atomically
from wordmask.utils.terminal import clean

logger = logging.getLogger(__name__)


@cache
def _environment(shown: Callable[[str], str], markup: bool) -> Environment:
    """The environment that fills templates. It is cached, so that each template is compiled once."""
    environment = Environment(
        loader=PackageLoader("wordmask.training.report"),
        autoescape=markup,
        finalize=lambda value: shown(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    functions = (quantities.counted, quantities.duration, quantities.loss, quantities.number, quantities.percent)
    environment.globals |= {"version": __version__, "mark": MARK, "flags_whole": flags_whole}
    environment.globals |= {one.__name__: one for one in functions}
    return environment


def flags_whole(sentence: str) -> Markup:
    """A sentence for HTML, in which no line ends inside a flag such as `--long_lines`."""
    return Markup(re.sub(r"--\w+", r'<span class="flag">\g<0></span>', str(escape(clean(sentence)))))


def render(template: str, shown: Callable[[str], str] = clean, **values: Any) -> str:
    """Fill a template with values. In HTML and SVG, Jinja2 escapes `<`, `&` and quotes.

    Args:
        template: its name in templates/.
        shown: is applied to each text; by default it shows control characters as text.
        values: what the template reads.
    """
    return _environment(shown, not template.endswith(".md.jinja")).get_template(template).render(**values)


def write_page(path: Path, text: str) -> None:
    """Write a page or a card.

    Raises:
        InputError: if a file of others has this name.
    """
    if path.exists() and not is_ours(path):
        raise InputError(f"{path} was not made by wordmask, so it is kept; give that file another name")
    with write_atomically(path) as file:
        file.write(text)


@contextlib.contextmanager
def only_warned(what: str) -> Iterator[None]:
    """Let an error be a warning: the run has what matters, its model and its figures."""
    try:
        yield
    except Exception as error:
        logger.warning("%s was not written (%s)", what, one_line(error))
