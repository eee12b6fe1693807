"""A study on disk: the record and its rows, checkpoints and other files, and the lock."""
