"""The network: each file is a box of the paper's Figure 1."""
