"""Which ranks, when, and how a cut is carried out: knows the `Reducible` protocol and no concrete layer."""
