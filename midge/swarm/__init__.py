"""Many virtual nodes in few processes: each a real MQTT client with the real agent's machine."""
