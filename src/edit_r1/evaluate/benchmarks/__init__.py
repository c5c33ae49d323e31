"""Public benchmarks of reward models: a file each, which reads the official layout and computes the official number.

`pair` holds what they share: a comparison with its pictures, and an answer, which is all that a metric may see.
"""
