"""The stage download: batch of links → shard.

stage.py ─▶ batch.py ─▶ fetching/ ─▶ decoder_pool.py ─▶ shard
              └─ politeness.py, host_queue.py, host_rests.py say which link may be asked, and when
"""
