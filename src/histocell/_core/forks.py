"""Forked processes: threads do not survive a fork, so histocell computes on one in a process that was forked."""

from __future__ import annotations

import os

_forked = False


def is_forked() -> bool:
    """Whether this process was forked, not started anew, after histocell was imported.

    The pools of OpenMP, torch and dask belong to the parent: the child would wait for their threads for ever, and GNU
    OpenMP ends a process in which numba tries.
    """
    return _forked


def _remember() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember)
