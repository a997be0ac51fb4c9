"""Cut models in the formats and the training loops of other libraries."""
