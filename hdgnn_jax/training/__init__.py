"""The sharded step, the loop around it, checkpoints and reports."""
