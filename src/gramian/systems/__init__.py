"""Control theory on tensors: linear systems, their Gramians, and what can be left out of them."""
