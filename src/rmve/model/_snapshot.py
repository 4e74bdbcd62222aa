"""What an AnnData held when it was set up, to see whether it changed since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anndata import AnnData

from rmve.data.checksums import array_checksum, column_checksum

#: Arguments of ``setup_anndata`` that name one column of ``obs``, and several.
COLUMNS = ("batch_key", "labels_key", "size_factor_key")
LISTS_OF_COLUMNS = ("categorical_covariate_keys", "continuous_covariate_keys")


@dataclass(frozen=True)
class Snapshot:
    """Checksums of all that was registered of an AnnData, by where it is (``"adata.obs['batch']"``).

    Matrices on disk count by their shape and type: a file that is open for reading is not written to.
    """

    parts: dict[str, object]

    @classmethod
    def take(cls, adata: AnnData, arguments: dict) -> Snapshot:
        """Look at what arguments of ``setup_anndata`` name.

        Parameters
        ----------
        adata
            Cells.
        arguments
            Of ``setup_anndata``.
        """
        layer, spatial_key, neighbors_key = (arguments.get(name) for name in ("layer", "spatial_key", "neighbors_key"))
        parts: dict[str, object] = {
            "adata.n_obs": adata.n_obs,
            "adata.var_names": column_checksum(adata.var_names),
        }
        where, x = ("adata.X", adata.X) if layer is None else (f"adata.layers[{layer!r}]", adata.layers.get(layer))
        parts[where] = array_checksum(x, where)
        for key in registered_columns(arguments):
            parts[f"adata.obs[{key!r}]"] = column_checksum(adata.obs[key]) if key in adata.obs else None
        if spatial_key is not None:
            parts[f"adata.obsm[{spatial_key!r}]"] = array_checksum(adata.obsm.get(spatial_key), spatial_key)
        if neighbors_key is not None:
            entry = adata.uns.get(neighbors_key)
            key = neighbors_key
            if key not in adata.obsp and isinstance(entry, dict):
                key = entry.get("connectivities_key", key)
            parts[f"adata.obsp[{key!r}]"] = array_checksum(adata.obsp.get(key), key)
        return cls(parts)

    def changes(self, now: Snapshot) -> list[str]:
        """Places that hold something else ``now``."""
        return [where for where, content in self.parts.items() if now.parts.get(where) != content]


def registered_columns(arguments: Mapping[str, Any]) -> list[str]:
    """Columns of ``obs`` that arguments of ``setup_anndata`` name."""
    single = [arguments.get(name) for name in COLUMNS]
    return [key for key in single if key is not None] + [
        key for name in LISTS_OF_COLUMNS for key in arguments.get(name) or []
    ]
