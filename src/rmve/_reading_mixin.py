"""What a trained model says of cells, clusters and genes beyond the clusters themselves."""

from __future__ import annotations

import pandas as pd
from anndata import AnnData

from rmve._known_cells import novelty_of


class ReadingMixin:
    """Part of :class:`rmve.RMVE` that says what is new in cells, and what clusters and latent dimensions stand for."""

    def get_novelty(self, adata: AnnData | None = None) -> pd.Series:
        """How unlike all training cells each cell is.

        Parameters
        ----------
        adata
            Cells; ``None`` is the training data.

        Returns
        -------
        Series with a value in [0, 1] for each cell, one minus a p-value: the share of the training cells, each compared
        with the others, that are less unusual for their cluster and depth. It is about uniform for cells like those of
        training, and close to 1 for cells of a type that training did not see.

        Raises
        ------
        RuntimeError
            If the model is not trained, or was loaded without its training data.

        Notes
        -----
        See :mod:`rmve.novelty` for what is compared. A batch that training did not have differs from the training cells, too:
        compare its values with each other before types are called new.

        Examples
        --------
        >>> adata.obs["novelty"] = model.get_novelty()  # doctest: +SKIP
        """
        self._check_if_trained()
        cells = self._validate_anndata(adata)
        return novelty_of(self, cells, *self._posterior(cells), cells.obs_names)
