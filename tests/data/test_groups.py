from itertools import permutations

from autotune.data.groups import Groups, find_duplicates
from autotune.data.picture import Picture


def picture(digest: str, group: str = "", path: str = "") -> Picture:
    return Picture(path or f"a/{digest}{group}.png", "a", None, digest, 30, "", group)


def test_the_key_of_a_group_is_its_smallest_digest_in_any_order_of_pairs() -> None:
    pictures = [picture(digest) for digest in ("c", "a", "b", "d")]
    for near in permutations((("c", "b"), ("b", "a"))):
        groups = Groups(pictures, near)
        assert [groups.key(one) for one in pictures] == ["a", "a", "a", "d"]


def test_group_names_take_precedence_over_digests_as_keys() -> None:
    one, other, tied = picture("0"), picture("1", "p2"), picture("2", "p1")
    groups = Groups([one, other, tied], [("0", "1"), ("1", "2")])
    assert {groups.key(each) for each in (one, other, tied)} == {"group:p1"}


def test_duplicates_do_not_depend_on_the_groups_of_the_table() -> None:
    pictures = [picture("a", "p"), picture("b", "p"), picture("a", path="a/again.png")]
    assert find_duplicates(pictures, None) == [[pictures[0], pictures[2]]]
    assert find_duplicates(pictures, [("a", "b")]) == [pictures]
