"""What holds for every input, found by hypothesis."""
