"""From the latent space to physical coordinates."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from rmve._validation import check_choice, get_coordinates
from rmve.spatial import SpatialMap


class SpatialMixin:
    """Part of :class:`rmve.RMVE` that maps cells to their place."""

    def fit_spatial_map(
        self, adata: AnnData | None = None, spatial_key: str | None = None, kind: str = "linear"
    ) -> SpatialMap:
        """Fit a linear map from the latent mean to coordinates, by ridge regression.

        Parameters
        ----------
        adata
            Cells with positions; ``None`` is the training data.
        spatial_key
            Key of ``adata.obsm`` with the coordinates, rows of NaN where unknown; ``None`` is the one given to
            ``setup_anndata``.
        kind
            ``"linear"``.

        Returns
        -------
        The map with its cross-validated quality; :meth:`map_to_space` and ``annotate`` use it from then on.

        Raises
        ------
        KeyError, ValueError
            If there are no usable coordinates.
        """
        check_choice("kind", kind, ("linear",))
        self._check_if_trained()
        adata = self._validate_anndata(adata)
        spatial_key = spatial_key or self._setup_arg("spatial_key")
        if spatial_key is None:
            raise ValueError("No coordinates: give `spatial_key` here or to `setup_anndata`.")
        coordinates = get_coordinates(adata, spatial_key)
        _, latent = self._posterior(adata)
        self.spatial_map_ = SpatialMap.fit(latent, coordinates)
        return self.spatial_map_

    def map_to_space(self, adata: AnnData | None = None) -> pd.DataFrame:
        """Predicted coordinates of each cell.

        Parameters
        ----------
        adata
            Cells; ``None`` is the training data.

        Returns
        -------
        Data frame with the columns ``"0"``, ``"1"``, ... (the axes, in the unit of the coordinates) and ``"sd"`` (root
        mean square over the axes of the cross-validated residual standard deviation, in the same unit).

        Raises
        ------
        RuntimeError
            If :meth:`fit_spatial_map` was not called.
        """
        if self.spatial_map_ is None:
            raise RuntimeError("There is no spatial map yet. Call `model.fit_spatial_map(spatial_key=...)` first.")
        adata = self._validate_anndata(adata)
        _, latent = self._posterior(adata)
        predicted = self.spatial_map_.predict(latent)
        frame = pd.DataFrame(predicted, index=adata.obs_names, columns=[str(i) for i in range(predicted.shape[1])])
        frame["sd"] = float(np.sqrt(np.mean(self.spatial_map_.residual_sd_**2)))
        return frame
