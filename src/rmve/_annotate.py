"""From a trained model back into AnnData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import pandas as pd
from anndata import AnnData

from rmve import _validation as check
from rmve._cluster_names import file_names
from rmve._compat import SETUP_ARGS_KEY
from rmve._keys import DEFAULT_KEY, Written
from rmve._known_cells import known_cells, novelty_of
from rmve._level_names import labels_at, level_table
from rmve._snapshot import registered_columns


class AnnotateMixin:
    """Part of :class:`rmve.RMVE` that writes results into AnnData."""

    def annotate(self, adata: AnnData | None = None, key_added: str = DEFAULT_KEY, levels: Sequence[int] = ()) -> None:
        """Write the results into ``adata``: the one method that does.

        Everything is computed before anything is written; calling it again overwrites the same keys.

        Parameters
        ----------
        adata
            Where to write; ``None`` is the training data. New data is assigned first.
        key_added
            Name of the cluster column, and the stem of the other names (see the user guide):
            ``obs[key]``, ``obs[key_confidence]``, ``obs[key_novelty]`` (of a model that has its training data), ``obsm[X_key]``, ``obsm[key_probabilities]``, ``uns[key]``, and with a
            spatial map ``obsm[X_key_spatial]`` and ``obs[key_spatial_sd]``. From ``obs[key_finest]`` and ``uns[key]``,
            :func:`rmve.cut_levels` makes the clusters of any level.
        levels
            Numbers of clusters of other levels to write, too: ``[4, 8]`` writes ``obs[key_4]`` and ``obs[key_8]``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If ``adata`` is a view or does not fit the model, or one of the names made from ``key_added`` holds something
            that RMVE did not write, or that the model reads.
        """
        self._check_if_trained()
        if adata is not None:
            check.check_anndata(adata)
        cells = self._validate_anndata(adata)
        adata = cells if adata is None else adata
        arguments = self.registry_[SETUP_ARGS_KEY]
        registered = {
            "obs": {*registered_columns(arguments)},
            "obsm": {arguments.get("spatial_key")},
            "uns": {arguments.get("neighbors_key")},
        }
        check.check_key_added(adata, key_added, registered, with_map=self.spatial_map_ is not None)
        names = Written(key_added)
        columns_of_levels = level_columns(adata, names, levels, registered["obs"])
        assignment, latent = self._posterior(cells)
        training = (assignment, latent) if self.adata is None or cells is self.adata else self._posterior()
        probabilities = self._cluster_probabilities(assignment, adata.obs_names)
        obs = {
            names.cluster: self._hard_labels(assignment, adata.obs_names),
            names.confidence: probabilities.max(axis=1),
        }
        if known_cells(self) is not None:
            obs[names.novelty] = novelty_of(self, cells, assignment, latent, adata.obs_names)
        # h5ad files allow no "/" in names of columns, which cell types have
        columns = probabilities.set_axis(file_names(probabilities.columns), axis=1)
        obsm = {names.latent: latent, names.probabilities: columns}
        uns: dict[str, object] = {
            "params": {name: value for name, value in self._parameters().items() if value is not None},
            "components": self._component_table(training[0]),
            "component_means": self.component_means.to_numpy(),
            "component_variances": self.component_variances.to_numpy(),
            "resolutions": self.get_resolutions(),
            "levels": level_table(self, training[0]),
            "level_columns": list(columns_of_levels),
            "versions": {name: version(name) for name in ("rmve", "scvi-tools", "torch", "anndata")},
        }
        component = pd.Series(assignment.argmax(1), index=adata.obs_names).astype(str)
        obs[names.finest] = component.astype("category")
        sizes = uns["components"]["n_cells"].to_numpy()
        obs |= {name: labels_at(uns["levels"], sizes, component, n) for name, n in columns_of_levels.items()}
        if self.spatial_map_ is not None:
            mapped = self._place(assignment, latent, adata.obs_names)
            obsm[names.spatial] = mapped.drop(columns="sd").to_numpy()
            obs[names.spatial_sd] = mapped["sd"]
            uns["spatial_map"] = self.spatial_map_.to_dict()
            if self.adata is not None:
                uns["spatial_genes"] = self.get_spatial_genes()
            if len(self.held_out_):
                uns["held_out"] = adata.obs_names[self.held_out_.rows(self._identify(adata))].to_numpy(dtype=str)
        for key, column in obs.items():
            adata.obs[key] = column
        for key, array in obsm.items():
            adata.obsm[key] = array
        adata.uns[names.uns] = uns

    def _parameters(self) -> dict[str, object]:
        return {
            **self.init_params_["non_kwargs"],
            **{k: self._setup_arg(k) for k in ("layer", "batch_key", "labels_key", "spatial_key")},
        }


def level_columns(adata: AnnData, names: Written, levels: Sequence[int], registered: set) -> dict[str, int]:
    """Column of ``obs`` for each level.

    Raises
    ------
    ValueError
        If a column is there and was not written by RMVE, or is read by the model.
    """
    if isinstance(levels, int | str):
        raise TypeError(f"`levels` must be a list of numbers of clusters, not {levels!r}.")
    entries = adata.uns.get(names.uns)
    ours = set(entries.get("level_columns", ())) if isinstance(entries, Mapping) else set()
    columns = {f"{names.cluster}_{number}": number for number in levels}
    for name in columns:
        if name in registered or (name in adata.obs and name not in ours):
            raise ValueError(f"`levels` would overwrite `adata.obs[{name!r}]`. Choose another `key_added`.")
    return columns
