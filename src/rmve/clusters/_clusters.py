"""Clusters of a mixture: which components belong together, and what they are called."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rmve._keys import DEFAULT_KEY
from rmve.clusters._names import name_clusters, renamed, with_given_names
from rmve.clusters.components import order_by_size


@dataclass(frozen=True)
class Clusters:
    """Clusters of a mixture's components.

    Attributes
    ----------
    of_component
        Cluster of each component, numbers ``0, 1, ...`` without a gap, length ``K``.
    names
        Name of each cluster.
    """

    of_component: tuple[int, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if set(self.of_component) != set(range(len(self.names))):
            raise ValueError(
                f"Each of the clusters 0 to {len(self.names) - 1} needs a component, and there are no others; got "
                f"{list(self.of_component)}."
            )

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, of_component: Sequence[int] | np.ndarray, labels: Sequence[str] = ()) -> Clusters:
        """Clusters with the names that follow from labels; see :func:`name_clusters`.

        Parameters
        ----------
        of_component
            Cluster of each component, numbers ``0, 1, ...`` without a gap, shape ``(K,)``.
        labels
            Known types, those of the first components.

        Raises
        ------
        TypeError, ValueError
            If numbers are no integers, or leave a gap.
        """
        numbers = tuple(operator.index(number) for number in of_component)
        if min(numbers, default=0) < 0:
            raise ValueError(f"Clusters are numbered from 0; got {list(numbers)}.")
        return cls(numbers, tuple(name_clusters(numbers, labels)))

    @classmethod
    def by_size(
        cls, assigned: np.ndarray, merged: np.ndarray, distance: np.ndarray, labels: Sequence[str] = ()
    ) -> Clusters:
        """Clusters numbered by size; components without cells join the nearest cluster.

        Parameters
        ----------
        assigned
            Component of each training cell, shape ``(n,)``.
        merged
            Component that each component was merged into, shape ``(K,)``.
        distance
            Distance of each pair of components, shape ``(K, K)``.
        labels
            Known types, those of the first components: their clusters stay, even without cells.
        """
        n_components, belongs = len(merged), np.array(merged)
        hard = belongs[assigned]
        keep = np.bincount(hard, minlength=n_components) > 0
        keep[belongs[: len(labels)]] = True
        roots = np.flatnonzero(keep)
        for k in np.flatnonzero(~keep[belongs]):
            belongs[k] = roots[distance[k, roots].argmin()]
        order = [k for k in order_by_size(hard, n_components) if keep[k]]
        rank = {component: number for number, component in enumerate(order)}
        return cls.of([rank[component] for component in belongs], labels)

    def named(self, given: Mapping[str, Sequence[int]], active: Iterable[int]) -> Clusters:
        """Clusters with the names that users gave; see :func:`with_given_names`.

        Parameters
        ----------
        given
            Components of each name.
        active
            Components that hold cells.
        """
        return replace(self, names=tuple(with_given_names(self.names, self.of_component, given, active)))

    def renamed(self, names: Mapping[str, str]) -> Clusters:
        """The same clusters under other names; see :func:`rmve.clusters._names.renamed`."""
        return replace(self, names=tuple(renamed(self.names, names)))

    def components_of(self, name: str, active: Iterable[int]) -> list[int]:
        """Components of a cluster, of those that hold cells."""
        number = self.names.index(name)
        return [int(component) for component in active if self.of_component[component] == number]

    def probabilities(self, assignment: np.ndarray, index: pd.Index) -> pd.DataFrame:
        """Probability of each cluster: ``q(y|x)`` summed over its components.

        Parameters
        ----------
        assignment
            ``q(y|x)`` over components, shape ``(n, K)``.
        index
            Names of the cells.

        Returns
        -------
        Data frame with a column for each cluster; rows sum to one.
        """
        together = np.eye(len(self.names), dtype=assignment.dtype)[list(self.of_component)]
        probabilities = np.minimum(assignment @ together, 1.0)  # a rounded sum can exceed 1
        return pd.DataFrame(probabilities, index=index, columns=list(self.names))

    def labels(self, assignment: np.ndarray, index: pd.Index) -> pd.Series:
        """Cluster of each cell's most probable component: levels of a merge tree are then nested.

        Parameters
        ----------
        assignment
            ``q(y|x)`` over components, shape ``(n, K)``.
        index
            Names of the cells.

        Returns
        -------
        Categorical series, with all clusters as categories.
        """
        codes = np.array(self.of_component)[assignment.argmax(1)]
        return pd.Series(pd.Categorical.from_codes(codes, categories=list(self.names)), index=index, name=DEFAULT_KEY)

    def to_dict(self) -> dict[str, list]:
        """Plain lists, as they are written to disk."""
        return {"of_component": list(self.of_component), "names": list(self.names)}

    @classmethod
    def from_dict(cls, values: object, n_components: int) -> Clusters:
        """Inverse of :meth:`to_dict`.

        Parameters
        ----------
        values
            Content of a file.
        n_components
            Number of components ``K`` that the clusters must have.

        Raises
        ------
        ValueError
            If the values are not clusters of as many components.
        """
        if not isinstance(values, dict) or set(values) != {"of_component", "names"}:
            raise ValueError("its clusters have another layout")
        numbers, names = values["of_component"], values["names"]
        plain = isinstance(numbers, list) and all(type(number) is int for number in numbers)
        named = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not plain or not named or len(set(names)) != len(names):
            raise ValueError("its clusters do not fit its components")
        if len(numbers) != n_components or set(numbers) != set(range(len(names))):
            raise ValueError("its clusters do not fit its components")
        return cls(tuple(numbers), tuple(names))
