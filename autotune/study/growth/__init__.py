"""What happens to a study when its folder grows: later pictures, studies that follow it, comparisons."""
