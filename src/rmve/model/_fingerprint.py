"""Whether data is the data that a run began with: a hash of all that training reads of an AnnData."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from anndata import AnnData

from rmve import _validation as check
from rmve.data.on_disk import stored_chunks
from rmve.maths.sparse_rows import SparseRows


def fingerprint(adata: AnnData, setup_args: Mapping[str, Any]) -> str:
    """SHA-256 of the names of cells and genes, the values, and the registered columns and positions, in their order.

    Parameters
    ----------
    adata
        Cells.
    setup_args
        Arguments of ``setup_anndata``.

    Returns
    -------
    Hexadecimal digits; the same for dense, sparse and backed data of the same values in single precision.
    """
    digest = hashlib.sha256()
    for names in (adata.obs_names, adata.var_names):
        digest.update(_text(names))
    for block in stored_chunks(check.get_matrix(adata, setup_args.get("layer"))):
        rows = SparseRows.from_scipy(block)
        for part in (rows.offsets, rows.cols, rows.values):
            digest.update(part.numpy().tobytes())
    keys = [setup_args.get(name) for name in ("batch_key", "labels_key", "size_factor_key")]
    for name in ("categorical_covariate_keys", "continuous_covariate_keys"):
        keys += setup_args.get(name) or []
    for key in keys:
        digest.update(_text(adata.obs[key]) if key in adata.obs else b"none")
    positions = adata.obsm.get(setup_args.get("spatial_key"))
    if positions is not None:
        digest.update(np.ascontiguousarray(positions, dtype=np.float32).tobytes())
    return digest.hexdigest()


def _text(values: Iterable) -> bytes:
    return json.dumps([str(value) for value in values]).encode()
