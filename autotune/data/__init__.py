"""The catalog of labelled pictures, their duplicates, the split into sets, and augmentation."""
