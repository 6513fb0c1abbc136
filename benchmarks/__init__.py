"""What `make bench` runs: real processes, printed tables, no verdicts."""
