"""State space layers, and the protocol by which any layer can be made smaller."""
