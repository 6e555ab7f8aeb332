"""What must not be kept: prompts that find it, hash lists that name it, and its removal from a shard."""
