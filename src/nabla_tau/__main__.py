"""`python -m nabla_tau`, so that `accelerate launch -m nabla_tau` and `torchrun -m nabla_tau` work."""

from nabla_tau.cli import main

if __name__ == "__main__":
    main()
