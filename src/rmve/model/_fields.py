"""Fields that RMVE registers beyond those of scvi-tools."""

from __future__ import annotations

from anndata import AnnData

from rmve._compat import ObsmField
from rmve._keys import SPATIAL_KEY


class PositionsField(ObsmField):
    """Physical coordinates in ``adata.obsm``: how many, and what they are called.

    The registry remembers the axes. The positions themselves are no part of mini-batches, for most cells that a model
    meets have none: training looks them up by row.

    Parameters
    ----------
    attr_key
        Key of ``adata.obsm``.
    """

    def __init__(self, attr_key: str):
        super().__init__(SPATIAL_KEY, attr_key, correct_data_format=False)

    def get_data_registry(self) -> dict:
        """Nothing: mini-batches hold no positions."""
        return {}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """The axes of the reference, whether the new cells have positions or not."""
        return dict(state_registry)
