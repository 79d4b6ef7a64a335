"""From stored samples to the array an encoder reads, on the device."""
