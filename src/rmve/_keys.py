"""Every name that RMVE reads from or writes into AnnData and the model's registry, once."""

from __future__ import annotations

from dataclasses import dataclass

#: Default of ``key_added``.
DEFAULT_KEY = "rmve"

#: Keys of the tensors in a mini-batch beyond scvi-tools' ``REGISTRY_KEYS``.
SPATIAL_KEY = "spatial"
INDEX_KEY = "ind_x"
#: Part of a cell that the decoder is scored on, where the encoder reads another.
TARGET_KEY = "target"
#: Size factor of that part.
TARGET_SIZE_KEY = "target_size_factor"


@dataclass(frozen=True)
class Written:
    """The names that :meth:`rmve.RMVE.annotate` writes for one ``key_added``."""

    key_added: str = DEFAULT_KEY

    @property
    def cluster(self) -> str:
        """``obs``: cluster of each cell, categorical."""
        return self.key_added

    @property
    def confidence(self) -> str:
        """``obs``: largest ``q(y|x)``."""
        return f"{self.key_added}_confidence"

    @property
    def novelty(self) -> str:
        """``obs``: how unlike all training cells each cell is."""
        return f"{self.key_added}_novelty"

    @property
    def finest(self) -> str:
        """``obs``: cluster of the finest level, by the number of its component, from which all levels follow."""
        return f"{self.key_added}_finest"

    @property
    def latent(self) -> str:
        """``obsm``: latent mean, ``(n_cells, n_latent)``."""
        return f"X_{self.key_added}"

    @property
    def probabilities(self) -> str:
        """``obsm``: ``q(y|x)`` as a data frame with a column per cluster (``/`` in its name written as ``|``)."""
        return f"{self.key_added}_probabilities"

    @property
    def spatial(self) -> str:
        """``obsm``: predicted coordinates, axes and unit of ``spatial_key``."""
        return f"X_{self.key_added}_spatial"

    @property
    def spatial_sd(self) -> str:
        """``obs``: standard deviation of the predicted coordinates, in the same unit."""
        return f"{self.key_added}_spatial_sd"

    @property
    def uns(self) -> str:
        """``uns``: parameters, components (table, means, variances), resolutions, spatial map, versions, checksums."""
        return self.key_added

    def places(self, with_map: bool = True) -> list[tuple[str, str]]:
        """Part of AnnData and name of each; those of a spatial map if there is one."""
        places = [("obs", self.cluster), ("obs", self.confidence), ("obs", self.novelty), ("uns", self.uns)]
        places += [("obs", self.finest), ("obsm", self.latent), ("obsm", self.probabilities)]
        return places + [("obsm", self.spatial), ("obs", self.spatial_sd)] if with_map else places
