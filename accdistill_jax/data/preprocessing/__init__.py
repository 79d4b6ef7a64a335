"""From a recording in physical units to segments of one rate, with their labels and quality."""
