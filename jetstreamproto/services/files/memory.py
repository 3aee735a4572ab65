"""What the allocator of the C library does with memory that messages have freed."""

_BLOCK = 1 << 23


def keep_freed_memory() -> None:
    """Let it keep some megabytes for what comes next.

    glibc gives the end of its heap back as soon as 128 KiB there are free, and every page of the
    next messages is then a fault. Once a block that was mapped has been freed, it keeps up to twice
    the size of that block (M_TRIM_THRESHOLD in mallopt(3)). The block's pages are never touched.
    """
    bytes(_BLOCK)
