"""The network: a file is a box of the paper's Figure 1."""
