"""The aggregator: averages what nodes send and publishes the next model."""
