"""Pictures that must not be kept: prompts that detect them, hash lists that identify them, and their removal from a
shard.
"""
