"""What operators share: their description, options of the residual, dtypes, layouts, and Triton functions."""
