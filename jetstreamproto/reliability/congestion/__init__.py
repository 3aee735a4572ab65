"""Congestion control: how much may be under way, and how fast it is sent."""
