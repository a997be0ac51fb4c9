"""Named experiments: what is run, over which seeds, and the file that holds what came out."""
