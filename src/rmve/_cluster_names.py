"""What clusters are called: each name once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count


def name_clusters(cluster_of: Sequence[int], labels: Sequence[str]) -> list[str]:
    """Name of each cluster of a mixture.

    A cluster with components of labels is called by the labels, ``"B + T"``; the others are numbered, as ``"new_0"`` if
    there are labels. A name that a label or another cluster has is not given twice.

    Parameters
    ----------
    cluster_of
        Cluster of each component, without gaps.
    labels
        Labels of the first components.
    """
    of_labels: list[list[str]] = [[] for _ in range(max(cluster_of) + 1)]
    for label, cluster in zip(labels, cluster_of, strict=False):
        of_labels[cluster].append(label)
    taken = {names[0] for names in of_labels if len(names) == 1}
    joined = {}
    for cluster, names in enumerate(of_labels):
        if len(names) > 1:
            joined[cluster] = free_name(" + ".join(names), taken | set(labels))
            taken.add(joined[cluster])
    prefix = "new_" if labels else ""
    fresh = (name for name in (f"{prefix}{number}" for number in count()) if name not in {*taken, *labels})
    return [
        names[0] if len(names) == 1 else joined[cluster] if names else next(fresh)
        for cluster, names in enumerate(of_labels)
    ]


def file_names(names: Iterable[str]) -> list[str]:
    """Names for columns of an h5ad file, which allows no ``/``: written as ``|``, and each once."""
    names = list(names)
    taken = {name for name in names if "/" not in name}
    found = []
    for name in names:
        if "/" in name:
            name = free_name(name.replace("/", "|"), taken)
            taken.add(name)
        found.append(name)
    return found


def free_name(name: str, taken: set[str]) -> str:
    """The name, or with a number from 2 on, the first that is not taken."""
    return next(form for form in (name if n == 1 else f"{name} ({n})" for n in count(1)) if form not in taken)
