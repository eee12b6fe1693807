"""Groups of pictures that must stay in one part: duplicates, near-duplicates and the groups of the user's table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from autotune.data.picture import Picture


class Groups:
    """A partition of pictures into groups that are connected directly or through other pictures."""

    def __init__(self, pictures: Iterable[Picture], near: Iterable[tuple[str, str]]) -> None:
        from scipy.cluster.hierarchy import DisjointSet  # takes most of a second

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
        """Return the key that all pictures of a group share: the smallest group name, or else the smallest digest.

        The part depends only on the key, and therefore not on other pictures in the folder.
        """
        return self._keys[picture.digest]


def find_duplicates(pictures: Sequence[Picture], near: Iterable[tuple[str, str]] | None) -> list[list[Picture]]:
    """Return groups of two or more pictures that are duplicates or near-duplicates of each other."""
    groups = Groups((replace(picture, group="") for picture in pictures), near or ())
    found: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        found[groups.key(picture)].append(picture)
    return [group for group in found.values() if len(group) > 1]


def near_duplicates(groups: Iterable[list[Picture]]) -> list[list[Picture]]:
    """Return the groups whose pictures are not all identical."""
    return [group for group in groups if len({picture.digest for picture in group}) > 1]


def conflicting_labels(groups: Iterable[list[Picture]]) -> list[list[Picture]]:
    """Return the groups with conflicting labels."""
    return [group for group in groups if len({picture.label for picture in group}) > 1]


def group_key(group: str) -> str:
    """Return the key of a group that the user named; it differs from every digest."""
    return f"group:{group}"


def is_group_key(key: str) -> bool:
    """Return whether a key is that of a group that the user named, and not a digest."""
    return key.startswith("group:")


def _key_of(names: Iterable[str]) -> str:
    """Return the smallest group key among a group's digests and group keys, else the smallest digest."""
    return min(names, key=lambda name: (not is_group_key(name), name))
