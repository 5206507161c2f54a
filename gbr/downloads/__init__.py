"""Archives found, fetched and unpacked, whatever interrupts it."""
