"""Sessions: channels multiplexed over one link, with credit, priorities and compression."""
