"""Labelled files become a catalogue, groups of copies and a split; a random view of a picture."""
