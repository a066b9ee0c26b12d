"""What this machine can do with MiniCPM-o 4.5, before anything is downloaded. `python -m omni.doctor`."""
