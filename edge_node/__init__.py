"""An edge node: trains on its own shard and sends updates."""
