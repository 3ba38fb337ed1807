"""What every other package stands on; nothing here imports a heavy package at its top."""
