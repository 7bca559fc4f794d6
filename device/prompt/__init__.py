"""A prompt's tokens through all layers, many at a time: products of matrices, between which all blocks meet."""
