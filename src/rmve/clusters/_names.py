"""What clusters are called: each name once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def renamed(names: Sequence[str], new: Mapping[str, str]) -> list[str]:
    """Names after some were exchanged.

    Parameters
    ----------
    names
        Name of each cluster.
    new
        From old names to new ones.

    Raises
    ------
    KeyError
        If there is no cluster of a name.
    TypeError
        If ``new`` is no dictionary of text.
    ValueError
        If two clusters would have one name, or one is empty.
    """
    if not isinstance(new, Mapping):
        raise TypeError(f"`names` must be a dictionary from clusters to names, not {type(new).__name__}.")
    for old, name in new.items():
        if old not in names:
            raise KeyError(f"There is no cluster {old!r} (`names`). The clusters are {', '.join(map(repr, names))}.")
        if not isinstance(name, str):
            raise TypeError(f"`names[{old!r}]` must be a string, not {type(name).__name__}.")
        if not name or not name.isprintable():
            raise ValueError(f"`names[{old!r}]` must not be empty or hold control characters; got {name!r}.")
    found = [new.get(name, name) for name in names]
    twice = [name for name in dict.fromkeys(found) if found.count(name) > 1]
    if twice:
        raise ValueError(
            f"`names` calls two clusters {twice[0]!r}. Choose another name for one, or merge them by `merge_components`."
        )
    return found


def with_given_names(
    names: Sequence[str], cluster_of: Sequence[int], given: Mapping[str, Sequence[int]], active: Iterable[int]
) -> list[str]:
    """Names of clusters, of which those that users named, at whatever level, keep their name.

    Parameters
    ----------
    names
        Name of each cluster without them.
    cluster_of
        Cluster of each component.
    given
        Components of each name that was given.
    active
        Components that hold cells; others do not count.
    """
    active = set(map(int, active))
    parts: dict[int, set[int]] = {}
    for component in active:
        parts.setdefault(int(cluster_of[component]), set()).add(component)
    found = {
        cluster: name
        for name, of_name in given.items()
        for cluster, part in parts.items()
        if part == set(of_name) & active
    }
    taken, result = set(found.values()), []
    for cluster, name in enumerate(names):
        if cluster not in found:
            name = free_name(name, taken)
            taken.add(name)
        result.append(found.get(cluster, name))
    return result
