"""Groups of pictures that belong in one part of the split: copies, near-copies, and the groups of the user's table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from scipy.cluster.hierarchy import DisjointSet

from autotune.data.picture import Picture


class Groups:
    """Which pictures belong together, directly or through others."""

    def __init__(self, pictures: Iterable[Picture], near: Iterable[tuple[str, str]]) -> None:
        joined = DisjointSet()
        for picture in pictures:
            joined.add(picture.digest)
            if picture.group:
                joined.add(group_key(picture.group))
                joined.merge(picture.digest, group_key(picture.group))
        for one, other in near:
            joined.add(one)
            joined.add(other)
            joined.merge(one, other)
        self._keys = {name: key for names in joined.subsets() for key in [_key_of(names)] for name in names}

    def key(self, picture: Picture) -> str:
        """The key that all pictures of a group share.

        It is a digest or the name of a group, so that it decides the part whatever else is in the folder. Of several
        names the smallest, of none the smallest digest.
        """
        return self._keys[picture.digest]


def find_copies(pictures: Sequence[Picture], near: Iterable[tuple[str, str]] | None) -> list[list[Picture]]:
    """Groups of two or more pictures that are copies or near-copies of each other."""
    groups = Groups((replace(picture, group="") for picture in pictures), near or ())
    found: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        found[groups.key(picture)].append(picture)
    return [group for group in found.values() if len(group) > 1]


def near_duplicates(groups: Iterable[list[Picture]]) -> list[list[Picture]]:
    """Those of them that are not all exact copies."""
    return [group for group in groups if len({picture.digest for picture in group}) > 1]


def contradictions(groups: Iterable[list[Picture]]) -> list[list[Picture]]:
    """Those whose labels differ."""
    return [group for group in groups if len({picture.label for picture in group}) > 1]


def group_key(group: str) -> str:
    """The key of a group that the user has named; no digest looks like it."""
    return f"group:{group}"


def is_group_key(key: str) -> bool:
    """Whether a key is a group that the user has named, and not a digest."""
    return key.startswith("group:")


def _key_of(names: Iterable[str]) -> str:
    """Of one group's digests and group keys: the smallest group key, else the smallest digest."""
    return min(names, key=lambda name: (not is_group_key(name), name))
