"""Flower's app: the same for its simulation and for its deployment."""
