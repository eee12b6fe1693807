"""Groups of pictures that belong on one side of the split: copies, near-copies, and what the user's table ties."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from autotune.data.picture import Picture


class Groups:
    """Which pictures are tied together, directly or through others."""

    def __init__(self, pictures: Iterable[Picture], near: Iterable[tuple[str, str]]) -> None:
        self._above: dict[str, str] = {}
        for picture in pictures:
            self._top(picture.digest)
            if picture.group:
                self._join(picture.digest, group_key(picture.group))
        for one, other in near:
            self._join(one, other)

    def key(self, picture: Picture) -> str:
        """One name for all that are tied to a picture. The content's or the group's own, so that it decides the side
        whatever else is in the folder; of several, the first: a group's before a digest.
        """
        return self._top(picture.digest)

    def _top(self, name: str) -> str:
        top = self._above.setdefault(name, name)
        while self._above[top] != top:
            top = self._above[top]
        while self._above[name] != top:  # shorten the way for the next
            self._above[name], name = top, self._above[name]
        return top

    def _join(self, one: str, other: str) -> None:
        first, last = sorted((self._top(one), self._top(other)), key=lambda name: (not is_group_key(name), name))
        self._above[last] = first


def find_copies(pictures: Sequence[Picture], near: Iterable[tuple[str, str]] | None) -> list[list[Picture]]:
    """Copies and near-copies: groups of two and more pictures that show the same."""
    groups = Groups((replace(picture, group="") for picture in pictures), near or ())
    found: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        found[groups.key(picture)].append(picture)
    return [group for group in found.values() if len(group) > 1]


def near_copies(groups: Iterable[list[Picture]]) -> list[list[Picture]]:
    """Those of them that are not all exact copies."""
    return [group for group in groups if len({picture.digest for picture in group}) > 1]


def contradictions(groups: Iterable[list[Picture]]) -> list[list[Picture]]:
    """Those whose labels differ."""
    return [group for group in groups if len({picture.label for picture in group}) > 1]


def group_key(group: str) -> str:
    """The key of a group that the user has named; no digest can be taken for it."""
    return f"group:{group}"


def is_group_key(key: str) -> bool:
    """Whether a key is a group that the user has named, and not content."""
    return key.startswith("group:")
