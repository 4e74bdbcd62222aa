"""Texts that several docstrings share, each written once."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import cleandoc
from typing import TypeVar

T = TypeVar("T")

#: A line of a docstring that stands for a shared text.
PLACE = re.compile(r"^%\((\w+)\)s$", re.MULTILINE)


def shared(**texts: str) -> Callable[[T], T]:
    """Decorator for functions and classes whose docstrings hold shared texts: a line ``%(adata)s`` is the text ``adata``.

    Parameters
    ----------
    **texts
        Texts by their name.

    Examples
    --------
    >>> documented = shared(
    ...     adata='''
    ...         adata
    ...             Cells.
    ...     '''
    ... )
    >>> @documented
    ... def count(adata):
    ...     '''%(adata)s'''
    >>> print(count.__doc__)
    adata
        Cells.
    """

    def fill(documented: T) -> T:
        if documented.__doc__:  # Python drops docstrings on request
            documented.__doc__ = PLACE.sub(lambda place: cleandoc(texts[place[1]]), cleandoc(documented.__doc__))
        return documented

    return fill
