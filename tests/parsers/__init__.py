"""Whatever is given to a parser comes back as a value or as an error of ours, and never in a third way (threat A20)."""
