"""Speed and memory against e3nn-jax, against the machine, and against older revisions."""
