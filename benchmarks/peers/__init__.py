"""What runs inside the peers' own environments, which `make bench-peers` builds.

None of it imports Midge: `benchmarks/peer_runs.py` hands over shards, first model and settings in a
folder, and reads there what each round took.
"""
