"""From the latent space to physical coordinates."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from rmve import _validation as check
from rmve import spatial
from rmve._held_out import identify
from rmve.module import COUNT_LIKELIHOODS
from rmve.spatial import Quality, SpatialMap


class SpatialMixin:
    """Part of :class:`rmve.RMVE` that maps cells to their place."""

    def fit_spatial_map(
        self,
        adata: AnnData | None = None,
        spatial_key: str | None = None,
        kind: str = "linear",
        scheme: str = "folds",
        group_key: str | None = None,
    ) -> SpatialMap:
        """Fit a linear map from the latent mean to coordinates, by ridge regression.

        :meth:`train` does it if positions are registered; call it for another kind of map, or for positions that the
        model was not trained with.

        Parameters
        ----------
        adata
            Cells with positions; ``None`` is the training data.
        spatial_key
            Key of ``adata.obsm`` with the coordinates, rows of NaN where unknown; ``None`` is the one given to
            ``setup_anndata``.
        kind
            ``"linear"``: one affine map. ``"by_cluster"``: one for each component, weighted by ``q(y|x)`` and shrunk to
            the common one.
        scheme
            How the map is judged, if the model did not learn these positions: see :func:`rmve.spatial.cross_validate`.
            If it did, the cells whose positions it did not learn judge it: the tenth that was held out of training.
        group_key
            Column of ``adata.obs`` with the groups of ``scheme="groups"``: donors, sections.

        Returns
        -------
        The map with its quality; :meth:`map_to_space` and ``annotate`` use it from then on.

        Raises
        ------
        KeyError, ValueError
            If there are no usable coordinates, or fewer of them than latent dimensions, plus two; or if none of the
            positions can judge the map, because the model has learned them all.

        Warns
        -----
        UserWarning
            If cells that the map did not see are not placed better than by chance.
        """
        check.check_choice("kind", kind, spatial.KINDS)
        self._check_if_trained()
        adata = self._validate_anndata(adata)
        registered = self._setup_arg("spatial_key")
        spatial_key = spatial_key or registered
        if spatial_key is None:
            raise ValueError("No coordinates: give `spatial_key` here or to `setup_anndata`.")
        coordinates = check.get_coordinates(adata, spatial_key)
        check.check_n_positions(int(np.isfinite(coordinates).all(1).sum()), self.module.n_latent)
        groups = None if group_key is None else check.require_column(adata, group_key, "group_key").to_numpy()
        cells = self._identify(adata)
        cells[~np.isfinite(coordinates).all(1)] = ""
        held_out = self.held_out_.judges(adata.obs_names.to_numpy(), cells)
        assignment, latent = self._posterior(adata)
        fitted = SpatialMap.fit(latent, coordinates, assignment, kind, held_out, scheme, groups)
        if not fitted.has_signal_:
            warnings.warn(
                f"The positions in `adata.obsm[{spatial_key!r}]` are not predicted better than by chance (p = "
                f"{fitted.p_value_:.2g}, R² {np.round(fitted.r2_, 2).tolist()}): no linear map exists from what the cells "
                "express. Do not read the mapped positions as places.",
                UserWarning,
                stacklevel=2,
            )
        self.spatial_map_ = fitted
        return fitted

    def _identify(self, adata: AnnData) -> np.ndarray:
        """What tells each cell from others, by its name and the positions that the model may have learned."""
        try:
            positions = check.get_coordinates(adata, self._setup_arg("spatial_key"))
        except (KeyError, ValueError):  # none, or too few to have been learned
            return np.full(adata.n_obs, "", dtype=object)
        return identify(adata.obs_names.to_numpy(), positions)

    def map_to_space(self, adata: AnnData | None = None) -> pd.DataFrame:
        """Predicted coordinates of each cell.

        Parameters
        ----------
        adata
            Cells; ``None`` is the training data.

        Returns
        -------
        Data frame with the columns ``"0"``, ``"1"``, ... (the axes, in the unit of the coordinates) and ``"sd"`` (root
        mean square over the axes of the predictive standard deviation, in the same unit; see
        :meth:`rmve.SpatialMap.predict_sd`).

        Raises
        ------
        RuntimeError
            If there is no map: the model was trained without positions, and :meth:`fit_spatial_map` was not called.
        """
        if self.spatial_map_ is None:
            raise RuntimeError("There is no spatial map yet. Call `model.fit_spatial_map(spatial_key=...)` first.")
        adata = self._validate_anndata(adata)
        return self._place(*self._posterior(adata), adata.obs_names)

    def _place(self, assignment: np.ndarray, latent: np.ndarray, index: pd.Index) -> pd.DataFrame:
        predicted = self.spatial_map_.predict(latent, assignment)
        frame = pd.DataFrame(predicted, index=index, columns=[str(i) for i in range(predicted.shape[1])])
        sd = self.spatial_map_.predict_sd(latent, assignment)
        frame["sd"] = np.sqrt((sd**2).mean(1))
        return frame

    @torch.inference_mode()
    def get_spatial_genes(self, batch_size: int | None = None) -> pd.DataFrame:
        """How each gene changes along each axis of space: the linear map, followed back through the decoder.

        A step of one standard deviation of the known positions along an axis is the most probable step in the latent space
        that leads there, ``Σ A' (A Σ A')^{-1}`` times it, with the covariance ``Σ`` of the latent means; the decoder says
        what it does to each gene, on average over the training cells.

        Parameters
        ----------
        batch_size
            Cells in a mini-batch.

        Returns
        -------
        Data frame with a row for each gene and a column for each axis (``"0"``, ``"1"``, ...): the change of expression
        in log2 units for counts, in the data's unit for a normal likelihood, in log-odds for a Bernoulli one.

        Raises
        ------
        RuntimeError
            If there is no map.
        """
        if self.spatial_map_ is None:
            raise RuntimeError("There is no spatial map yet. Call `model.fit_spatial_map(spatial_key=...)` first.")
        adata = self._validate_anndata(None)
        assignment, latent = self._posterior()
        a = self.spatial_map_.coef_
        spread = np.cov(latent.T).reshape(latent.shape[1], -1)
        placed = self.spatial_map_.predict(latent, assignment)
        steps = (spread @ a.T @ np.linalg.pinv(a @ spread @ a.T)).T * placed.std(0)[:, None]
        change = np.zeros((len(steps), adata.n_vars))
        for tensors in self._make_data_loader(adata=adata, batch_size=batch_size or 1024):
            tensors = {k: v.to(self.device) for k, v in tensors.items()}
            inputs = self.module._get_inference_input(tensors)
            encoded = self.module.encode(**inputs)
            z = (encoded["log_q"].exp()[..., None] * encoded["z_mean"]).sum(1)
            for axis, step in enumerate(steps):
                half = torch.as_tensor(step / 2, dtype=z.dtype, device=z.device)
                up, down = (self._decode(tensors, encoded, z + sign * half) for sign in (1.0, -1.0))
                change[axis] += (up - down).sum(0).double().cpu().numpy()
        change /= adata.n_obs
        if self.gene_likelihood in COUNT_LIKELIHOODS:
            change /= np.log(2.0)
        return pd.DataFrame(change.T, index=adata.var_names.copy(), columns=[str(i) for i in range(len(steps))])

    def _decode(self, tensors: dict, encoded: dict, z: torch.Tensor) -> torch.Tensor:
        """Log mean (counts), mean (normal) or log-odds (Bernoulli) of each gene, shape ``(B, G)``."""
        inputs = self.module._get_generative_input(tensors, {**encoded, "z": z})
        parameters = self.module.generative(**inputs, with_distribution=False)["parameters"]
        return parameters["log_mu"] if self.gene_likelihood in COUNT_LIKELIHOODS else parameters["location"]

    @classmethod
    def cross_validate_positions(
        cls,
        adata: AnnData,
        scheme: str = "folds",
        group_key: str | None = None,
        n_folds: int = 5,
        train_kwargs: dict | None = None,
        **model_kwargs,
    ) -> tuple[pd.DataFrame, Quality]:
        """Train once for each fold with its positions hidden, and compare where the cells are put with where they are.

        Parameters
        ----------
        adata
            AnnData set up with ``spatial_key``; it is left as it is. Hidden are positions, not expression: the case of
            dissociated cells beside a spatial reference.
        scheme, n_folds
            As in :func:`rmve.spatial.cross_validate`.
        group_key
            Column of ``adata.obs`` with the groups of ``scheme="groups"``.
        train_kwargs
            Arguments of :meth:`train`.
        **model_kwargs
            Arguments of :class:`RMVE`.

        Returns
        -------
        Predicted coordinates as :meth:`map_to_space` gives them, of all cells with a position, and their quality.

        Raises
        ------
        KeyError, ValueError
            If ``adata`` was not set up with positions, or an option is wrong.
        """
        cls._check_set_up(adata)
        arguments = dict(
            cls._get_most_recent_anndata_manager(adata, required=True)._get_setup_method_args()["setup_args"]
        )
        if arguments["spatial_key"] is None:
            raise ValueError("Set up `adata` with `spatial_key` first: `RMVE.setup_anndata(adata, spatial_key=...)`.")
        check.check_choice("scheme", scheme, spatial.SCHEMES)
        groups = None if group_key is None else check.require_column(adata, group_key, "group_key").to_numpy()
        if scheme == "groups" and groups is None:
            raise ValueError('`scheme="groups"` needs `group_key`, a column of `adata.obs`.')
        coordinates = check.get_coordinates(adata, arguments["spatial_key"])
        known = np.flatnonzero(np.isfinite(coordinates).all(1))
        if not adata.obs_names.is_unique:
            raise ValueError("`adata.obs_names` has duplicates. Call `adata.obs_names_make_unique()` first.")
        splits = spatial.folds(coordinates[known], scheme, None if groups is None else groups[known], n_folds, seed=0)
        parts = []
        for _, test in splits:
            hidden = coordinates.copy()
            hidden[known[test]] = np.nan
            fold = adata.to_memory() if adata.isbacked else adata.copy()
            fold.obsm[arguments["spatial_key"]] = hidden
            cls.setup_anndata(fold, **arguments)
            model = cls(fold, **model_kwargs)
            model.train(**(train_kwargs or {}))
            parts.append(model.map_to_space().iloc[known[test]])
        placed = pd.concat(parts).loc[adata.obs_names[known]]
        predicted = placed.drop(columns="sd").to_numpy()
        return placed, spatial.quality(coordinates[known], predicted)
