"""Probes of embeddings: HEST-Bench and cohorts, encoders side by side."""
