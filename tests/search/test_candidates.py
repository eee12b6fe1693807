from autotune.search.candidates import first_few, with_name


def test_at_most_three_skipped_backbones_are_listed() -> None:
    assert first_few(["a"]) == "a"
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_a_reason_names_its_backbone_once() -> None:
    assert with_name("net", "package net_weights is not installed") == "net: package net_weights is not installed"
    assert with_name("net", "Backbone 'net' does not load: OSError: x") == "Backbone 'net' does not load: OSError: x"
