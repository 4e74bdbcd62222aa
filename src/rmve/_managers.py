"""Which data a model has met, without keeping it: memory is given back with the data, and a model can be pickled."""

from __future__ import annotations

import weakref
from uuid import uuid4

from anndata import AnnData
from scvi.data import AnnDataManager

#: Attribute of an AnnData that keeps its managers for as long as it lives.
KEPT = "_rmve_managers"


class _Kept(dict):
    """Managers of an AnnData; copies and pickles of it have none."""

    def __reduce__(self):
        return dict, ()


class ManagersMixin:
    """Part of :class:`rmve.RMVE` that finds scvi-tools' managers of data.

    scvi-tools keeps each AnnData that was ever set up or given to a model. Here the data keeps its managers, the stores know
    them by weak references, and both go when the data does.
    """

    @classmethod
    def register_manager(cls, adata_manager: AnnDataManager) -> None:
        """Note the manager of data that was set up, until the data is gone."""
        if not isinstance(cls._setup_adata_manager_store, weakref.WeakValueDictionary):
            cls._setup_adata_manager_store = weakref.WeakValueDictionary(cls._setup_adata_manager_store)
        _keep(adata_manager.adata, cls.__qualname__, adata_manager)
        super().register_manager(adata_manager)

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        """Note the manager of data that this model has met, until one of the two is gone."""
        store = self._per_instance_manager_store
        if self.id not in store:
            store[self.id] = weakref.WeakValueDictionary()
            weakref.finalize(self, store.pop, self.id, None)
        _keep(adata_manager.adata, self.id, adata_manager)
        super()._register_manager_for_instance(adata_manager)

    def __getstate__(self) -> dict[str, object]:
        """All but the trainer, which belongs to this process."""
        return {name: value for name, value in vars(self).items() if name != "trainer"}

    def __setstate__(self, state: dict[str, object]) -> None:
        """A model of its own, on data of its own."""
        vars(self).update(state, id=str(uuid4()))
        if self._adata_manager is not None:
            self._register_manager_for_instance(self._adata_manager)


def _keep(adata: AnnData, owner: str, manager: AnnDataManager) -> None:
    kept = vars(adata).get(KEPT)
    if not isinstance(kept, _Kept):
        kept = vars(adata)[KEPT] = _Kept()
    kept[owner] = manager
