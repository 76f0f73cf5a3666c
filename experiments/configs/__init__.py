"""Configs, each explained in itself: `--config=qm9:quick` is `qm9.py`, variant `quick`."""
