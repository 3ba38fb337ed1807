"""Expression of genes from images: losses, an autoencoder of expression, and what is built of them."""
