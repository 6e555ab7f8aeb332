"""What must not be kept: prompts that detect it, hash lists that identify it, and its removal from a shard."""
