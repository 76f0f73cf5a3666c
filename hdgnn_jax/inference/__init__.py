"""A trained model in use: prediction, ASE, relaxation, export."""
