"""The workbench: front door, demo and experiments."""
