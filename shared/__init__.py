"""What both sides must agree on; imports nothing of ours."""
