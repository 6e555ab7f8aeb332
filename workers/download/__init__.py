"""The stage download: batch of links → shard.

stage.py ─▶ batch.py ─▶ fetching/ ─▶ decoder_pool.py ─▶ shard
              └─ politeness.py, host_queue.py, host_rests.py decide which link is fetched when
"""
