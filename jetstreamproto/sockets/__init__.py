"""Socket options, set where they pay and read back where they matter."""
