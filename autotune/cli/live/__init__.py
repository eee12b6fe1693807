"""What a terminal shows while a study runs: lines, progress bars, or a panel that follows it."""
