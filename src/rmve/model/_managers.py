"""Which data a model has met, without keeping it.

scvi-tools keeps each AnnData that was ever set up or given to a model. Here the data keeps its managers, the stores know them
by weak references, and both go when the data does.
"""

from __future__ import annotations

import weakref
from collections.abc import MutableMapping

from scvi.data import AnnDataManager

#: Attribute of an AnnData that keeps its managers for as long as it lives.
KEPT = "_rmve_managers"


class _Kept(dict):
    """Managers of an AnnData; copies and pickles of it have none."""

    def __reduce__(self):
        return dict, ()


def weak(store: MutableMapping) -> weakref.WeakValueDictionary:
    """A store of managers that forgets those of data that is gone."""
    return store if isinstance(store, weakref.WeakValueDictionary) else weakref.WeakValueDictionary(store)


def keep(manager: AnnDataManager, owner: str) -> None:
    """Let data keep its manager for as long as it lives.

    Parameters
    ----------
    manager
        Manager of the data.
    owner
        Class or model that made it; another manager of the same owner is replaced.
    """
    adata = manager.adata
    kept = vars(adata).get(KEPT)
    if not isinstance(kept, _Kept):
        kept = vars(adata)[KEPT] = _Kept()
    kept[owner] = manager
