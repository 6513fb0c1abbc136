"""Flower's simulation on Ray: one worker process a core, each with one client at a time."""

from flwr.simulation import run_simulation

from benchmarks.peers import given
from benchmarks.peers.flower_app import node, server

if __name__ == "__main__":
    run_simulation(
        server.app,
        node.app,
        num_supernodes=given.SETTINGS["nodes"],
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
