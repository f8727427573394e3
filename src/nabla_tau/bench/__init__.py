"""The benchmark: cells of task × method × forget set × seed on real data, and what follows from them."""
