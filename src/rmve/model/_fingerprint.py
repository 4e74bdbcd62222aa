"""Whether data is the data that a run began with: a hash of all that training reads of an AnnData."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from rmve import _validation as check
from rmve.data.on_disk import stored_chunks
from rmve.maths.sparse_rows import SparseRows
from rmve.model._snapshot import registered_columns


class Fingerprint:
    """SHA-256 of the names of cells and genes, the values, and the registered columns and positions, in their order.

    The same for dense, sparse and backed data of the same values in single precision. Another pass over the values can add
    them on its way.

    Parameters
    ----------
    adata
        Cells.
    """

    def __init__(self, adata: AnnData):
        self._adata, self._n_rows, self._digest = adata, 0, hashlib.sha256()
        for names in (adata.obs_names, adata.var_names):
            self._digest.update(_text(names))

    def add(self, block: np.ndarray | sp.spmatrix) -> None:
        """Add the next rows of values, as :func:`rmve.data.on_disk.stored_chunks` divides them."""
        rows = SparseRows.from_scipy(sp.csr_matrix(block).astype(np.float32))
        for part in (rows.offsets, rows.cols, rows.values):
            self._digest.update(part.numpy().tobytes())
        self._n_rows += block.shape[0]

    def finish(self, setup_args: Mapping[str, Any]) -> str:
        """Add what is left: the values if no pass did, and the rest; each fingerprint is finished once.

        Parameters
        ----------
        setup_args
            Arguments of ``setup_anndata``.

        Returns
        -------
        Hexadecimal digits.
        """
        adata, digest = self._adata, self._digest
        if not self._n_rows:
            for block in stored_chunks(check.get_matrix(adata, setup_args.get("layer"))):
                self.add(block)
        for key in registered_columns(setup_args):
            digest.update(_text(adata.obs[key]) if key in adata.obs else b"none")
        positions = adata.obsm.get(setup_args.get("spatial_key"))
        if positions is not None:
            digest.update(np.ascontiguousarray(positions, dtype=np.float32).tobytes())
        return digest.hexdigest()


def _text(values: Iterable) -> bytes:
    return json.dumps([str(value) for value in values]).encode()
