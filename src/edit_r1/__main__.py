"""`python -m edit_r1` is `edit-r1`: what `torchrun -m` and `accelerate launch -m` start."""

from edit_r1.cli import main

main()
