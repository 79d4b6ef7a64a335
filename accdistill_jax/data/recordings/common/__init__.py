"""Helpers of several readers: files, blocks with time stamps, signals by name, MATLAB files and restricted pickles."""
